"""What a model is asked: the chat's history made into a normal form, and the key of that question."""

import base64
import hmac
from collections.abc import Iterable, Sequence

from parley.conversation import Model, Role, Turn
from parley.encoding import to_json

_KEY_VERSION = "1"


def normalise(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Return the history as pairs of question and answer, ending with the new question.

    A question without an answer (its reply failed) is dropped, unless it is the last. A pair whose
    question is asked again right after it collapses into the later one: asking the same thing again
    is the same question, and so has the same key.
    """
    kept: list[Turn] = []
    question: Turn | None = None
    for turn in turns:
        if turn.role is Role.USER:
            question = turn
        elif question is not None and turn.text:
            _drop_repeated(kept, question)
            kept += (question, turn)
            question = None
    if question is not None:
        _drop_repeated(kept, question)
        kept.append(question)
    return tuple(kept)


def _drop_repeated(kept: list[Turn], question: Turn) -> None:
    if len(kept) >= 2 and kept[-2].text == question.text:
        del kept[-2:]


def trim(turns: Sequence[Turn], budget: int) -> tuple[Turn, ...]:
    """Return the newest turns that fit into `budget` code points, whole pairs only.

    The last turn, the new question, always stays. The result depends on the history alone, so every
    process that looks at a session sends, and hashes, the same context.
    """
    if not turns:
        return ()
    first = len(turns) - 1
    room = budget - len(turns[-1].text)
    while first >= 2:
        room -= len(turns[first - 1].text) + len(turns[first - 2].text)
        if room < 0:
            break
        first -= 2
    return tuple(turns[first:])


def generation_key(
    secret: bytes,
    *,
    model: Model,
    adapter: str,
    turns: Sequence[Turn],
    user_id: str,
    share_context_free: bool,
    bypass: str | None,
) -> str:
    """Return the name of the generation that answers this question, as 43 URL-safe characters.

    Two questions share a generation only if the model would be sent the same bytes, by the same
    version of the adapter, and the askers may share: without context where `share_context_free`
    allows it, else one user with itself. `bypass` makes a key that nothing else has (regenerate).
    """
    shared = share_context_free and len(turns) == 1
    question = [
        _KEY_VERSION,
        "" if shared else user_id,
        bypass or "",
        adapter,
        model.provider,
        model.name,
        model.max_output_tokens,
        sorted(model.parameters.items()),
        model.system_prompt,
        [[turn.role.value, turn.text] for turn in turns],
    ]
    digest = hmac.digest(secret, to_json(question), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def title_of(prompt: str, limit: int = 80) -> str:
    """Return a chat's title: the prompt on one line, cut at a word near `limit` code points."""
    line = " ".join(prompt.split())
    if len(line) <= limit:
        return line
    cut = line[:limit].rsplit(" ", 1)[0]
    return f"{cut}…"
