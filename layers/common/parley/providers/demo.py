"""A built-in model that needs no key: it counts the words and characters of a prompt, in Markdown."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator

from parley.domain.events import Delta, Finish, FinishReason, ModelEvent, Usage
from parley.domain.ports import ModelRequest

_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s]+)|\s+")
_LENGTH = re.compile(r"\b(\d{2,5})\s+words\b", re.IGNORECASE)
_EXCERPT = 160

_REPLY = """\
## What the demo model can say

I am **Parley's built-in demo model**: I know nothing, call nobody and need no key. 👋 \
I count, and I show how a reply streams. You wrote:

{quote}

{counts}

The same in Python, for the parts of the page that show code:

```python
prompt = {literal}
assert len(prompt.split()) == {words}
assert len(prompt) == {characters}
```

Ask me the same again and you get the same reply: an equal question is answered from the cache — \
naïvely, but *très* vite. Ask for “500 words” and I go on for that long. For a model that thinks, \
set `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `XAI_API_KEY`. ✓
"""

_MORE = """
### Paragraph {number}

This paragraph is here because you asked for {wanted} words, and has nothing more to say than that. \
While it streams, close this tab, open it again, or press stop: what you saw stays, and nothing comes twice.
"""


class DemoModel:
    """Replies deterministically. `tokens_per_second` sets the pace; 0 is full speed."""

    version = "demo/1"

    def __init__(self, tokens_per_second: float) -> None:
        self._pause = 1 / tokens_per_second if tokens_per_second > 0 else 0.0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Reply to the last turn; see `ports.ChatModel.stream`."""
        heard = [request.model.system_prompt, *(turn.text for turn in request.turns)]
        said = tokens_of(reply_to(request.turns[-1].text, earlier=len(request.turns) // 2))
        tokens = said[: request.model.max_output_tokens]
        clock = asyncio.get_running_loop()
        start = clock.time()
        for number, token in enumerate(tokens):
            # Timed from the start, so that late wake-ups do not add up.
            await asyncio.sleep(max(start + number * self._pause - clock.time(), 0.0))
            yield Delta(token)
        usage = Usage(sum(len(tokens_of(text)) for text in heard), len(tokens))
        reason = FinishReason.STOP if len(tokens) == len(said) else FinishReason.LENGTH
        yield Finish(reason, reason.value, usage)

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def tokens_of(text: str) -> list[str]:
    """Return the demo's tokens of `text`: words or punctuation, each with the white space before it."""
    return _TOKEN.findall(text)


def reply_to(prompt: str, *, earlier: int = 0) -> str:
    """Return the demo's whole reply to `prompt`. `earlier` is the number of earlier prompts in the chat."""
    words = prompt.split()
    counts = [
        f"{_count(len(words), 'word')}, {_count(len(prompt), 'character')}, "
        f"{_count(prompt.count(chr(10)) + 1, 'line')}",
        f"the longest word has {_count(max(map(len, words), default=0), 'character')}",
        f"{_count(sum(character > chr(127) for character in prompt), 'character')} beyond ASCII",
        "it ends as a question" if prompt.rstrip().endswith(("?", "？")) else "it does not end as a question",
    ]
    if earlier:
        counts.append(f"it came after {_count(earlier, 'earlier question')} in this chat")
    excerpt = prompt if len(prompt) <= _EXCERPT else f"{prompt[:_EXCERPT]}…"
    reply = _REPLY.format(
        quote="\n".join(f"> {line}" for line in excerpt.splitlines()),
        counts="\n".join(f"- {line}" for line in counts),
        literal=json.dumps(prompt, ensure_ascii=False)
        if len(prompt) <= _EXCERPT
        else "...  # too long to repeat",
        words=len(words),
        characters=len(prompt),
    )
    if found := _LENGTH.search(prompt):
        wanted = int(found[1])
        number = 1
        while len(reply.split()) < wanted:
            reply += _MORE.format(number=number, wanted=wanted)
            number += 1
    return reply


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
