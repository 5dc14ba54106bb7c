"""The JSON of a page of history, bounded in bytes: a Lambda function's response may have 6 MB."""

import json
from collections.abc import Sequence
from typing import cast

import msgspec

from parley.api.schemas import HistoryBody, MessageBody, message_body
from parley.domain.conversation import Page
from parley.domain.titles import shown_title
from parley.support.encoding import to_json

# Bytes that a page's messages may take in a function's response. Lambda takes 6,291,556 with all around them.
PAGE_BYTES = 5_000_000
# The most bytes in such a response for a byte of JSON: an emoji of four bytes takes 12.
_MOST_GROWTH = 3


def page_body(page: Page, limit: int = PAGE_BYTES, *, reset: bool = False) -> HistoryBody:
    """Return a page of history. Messages that exceed `limit` bytes are left to the next page, oldest first.

    A page keeps its newest message, however long that is. `reset` says that the page takes the place of all
    that a client knows.
    """
    encoded = [to_json(message_body(message)) for message in page.messages]
    first = _first_that_fits(encoded, limit)
    # Their length has been measured as JSON, so they are not serialised twice.
    messages = cast("list[MessageBody]", [msgspec.Raw(message) for message in encoded[first:]])
    return HistoryBody(
        page.chat_id,
        shown_title(page.title),
        messages,
        str(page.messages[first].position) if first > 0 else page.next_before,
        page.active_session_id,
        page.revision,
        reset,
    )


def news_of(page: Page) -> dict[str, object]:
    """Return what a page adds to an error: its messages, as far as they fit, and the chat's revision.

    Messages that are too many, or that are all of the chat's, take the place of all that a client knows.
    """
    fitting = page_body(page)
    messages = page.messages[len(page.messages) - len(fitting.messages) :]
    reset = fitting.next_before is not None or messages[0].position == 1
    return {
        "messages": [message_body(message) for message in messages],
        "revision": page.revision,
        "reset": reset,
    }


def _first_that_fits(encoded: Sequence[bytes], limit: int) -> int:
    if _MOST_GROWTH * sum(map(len, encoded)) <= limit:
        return 0
    first = len(encoded)
    while first > 0:
        limit -= _bytes_in_response(encoded[first - 1])
        if limit < 0 and first < len(encoded):
            break
        first -= 1
    return first


def _bytes_in_response(message: bytes) -> int:
    """Return the length of a message's JSON inside a function's response, where it is part of a JSON string.

    Lambda's runtimes for Python differ: this is the longer form, the ASCII of those before 3.12. The length
    includes a comma.
    """
    return len(json.dumps(message.decode())) - 1
