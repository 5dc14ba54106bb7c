"""Makes a chat's history into the turns that a model is sent, and into the generation's key."""

import base64
import hmac
from collections.abc import Callable, Iterable, Sequence

from parley.domain.conversation import LeftOut, Model, Role, Turn
from parley.domain.errors import ContextTooLong
from parley.support.encoding import is_blank, to_json

_KEY_VERSION = "1"

# Characters a token, measured with Gemma 3's tokenizer: English 4.7, code 3.4, Chinese 1.35, digits and emoji
# 1.0. Scripts in between use the lower figure, because a request must not exceed the context.
_ASCII_CHARACTERS_A_TOKEN = 3.4
_OTHER_CHARACTERS_A_TOKEN = 1.35
# The provider's count may differ from ours, and a reply needs room too.
_MARGIN = 0.9


def normalise(turns: Iterable[Turn], *, whole: bool = True) -> tuple[Turn, ...]:
    """Return the history as pairs of question and answer that end with the new question.

    A question without an answer (its reply failed, or is blank) is dropped, unless it is the last: providers
    refuse a blank turn, and with it every later question of the chat. Every other turn is kept, whatever its
    words: after a story, the second "continue" goes on from the first one's answer. Where all questions of
    the chat are the same text, the last one is asked without context, so a chat's first question sent again
    is the same question with the same key. `whole` says that `turns` begin with the chat's first question.
    """
    kept: list[Turn] = []
    question: Turn | None = None
    for turn in turns:
        if turn.role is Role.USER:
            question = turn
        elif question is not None and not is_blank(turn.text):
            kept += (question, turn)
            question = None
    if question is not None:
        kept.append(question)
        if whole and all(turn.text == question.text for turn in kept[::2]):
            return (question,)
    return tuple(kept)


def trim(turns: Sequence[Turn], model: Model) -> tuple[Turn, ...]:
    """Return the newest turns that fit into the model's context, in whole pairs.

    The last turn, which is the new question, always stays. The result depends on the history alone, so every
    process that looks at a session sends, and hashes, the same context.
    """
    tokens = model.options.context_tokens
    if tokens is None:
        return _newest(turns, model.context_characters, len)
    return _newest(turns, tokens, tokens_of)


def left_out(earlier: int, kept: Sequence[Turn], sent: Sequence[Turn]) -> LeftOut | None:
    """Return what the model is not sent of a chat, of which `earlier` messages were not even read.

    `kept` are the turns normalised, `sent` those trimmed. None: the context takes them all. What was not
    answered is never sent, which is no lack of room; it counts where it lies among what is left out.
    """
    if not sent or (not earlier and len(sent) == len(kept)):
        return None
    return above(sent)


def above(sent: Sequence[Turn]) -> LeftOut:
    """Return all that stands above the first of the turns that are sent, of which there is one at least."""
    return LeftOut(sent[0].above, sent[0].message_id)


def shortened(turns: Sequence[Turn], fault: ContextTooLong, *, again: bool) -> tuple[Turn, ...] | None:
    """Return fewer of the newest turns for a model that refused these; None for a single question.

    Whole pairs stay. The provider's counts say how much stays; without counts it is half. `again` says that a
    shorter request was refused too, and keeps half at most.
    """
    if len(turns) < 3:
        return None
    share = 0.5
    if fault.asked_tokens and fault.context_tokens:
        told = _MARGIN * fault.context_tokens / fault.asked_tokens
        share = min(told, share) if again else told
    return _newest(turns[2:], share * sum(len(turn.text) for turn in turns), len)


def _newest(turns: Sequence[Turn], budget: float, size: Callable[[str], float]) -> tuple[Turn, ...]:
    if not turns:
        return ()
    first = len(turns) - 1
    room = budget - size(turns[-1].text)
    while first >= 2:
        room -= size(turns[first - 1].text) + size(turns[first - 2].text)
        if room < 0:
            break
        first -= 2
    return tuple(turns[first:])


def tokens_of(text: str) -> float:
    """Return an estimate of a text's tokens, rather too high than too low."""
    digits = sum(map(text.count, "0123456789"))
    beyond_ascii = 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))
    # Emoji, and other characters that take two code units in UTF-16.
    astral = len(text.encode("utf-16-le", "surrogatepass")) // 2 - len(text) if beyond_ascii else 0
    return (
        digits
        + astral
        + (beyond_ascii - astral) / _OTHER_CHARACTERS_A_TOKEN
        + (len(text) - digits - beyond_ascii) / _ASCII_CHARACTERS_A_TOKEN
    )


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

    Two questions share a generation on two conditions. The model would be sent the same bytes by the same
    version of the adapter. The users may share: any users without context where `share_context_free` allows
    it, otherwise each user alone. `bypass` makes a unique key (regenerate).
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
