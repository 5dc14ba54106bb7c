"""Separates reasoning from text where a model writes it into its text: `<think>…</think>`, then the reply.

Servers that do not parse their model's reasoning stream it so. Some chat templates open the tag themselves
(the first DeepSeek R1). Their text has only the closing tag, so while it streams it looks like a reply.
"""

from typing import NamedTuple

_TAGS = {
    "<think>": "</think>",  # DeepSeek R1, Qwen 3, GLM, Kimi K2, MiniMax, and most others
    "<thinking>": "</thinking>",  # models whose prompt asks for it
    "<thought>": "</thought>",  # Gemini's endpoint for OpenAI's API
    "<reasoning>": "</reasoning>",  # gpt-oss and Kimi on Bedrock
    "<mm:think>": "</mm:think>",  # MiniMax M3
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi VL
}
# A reply may begin with the closing tag of reasoning that is empty.
_HEADS = (*_TAGS, *_TAGS.values())


class Split(NamedTuple):
    """A piece of a reply, split into text and reasoning."""

    text: str
    reasoning: str


class ThinkTags:
    """Splits a reply into text and reasoning, piece by piece.

    Only a tag at the beginning of a reply counts. `feed` holds back what may be the beginning of a tag. Once
    `passing` is true, everything is text.
    """

    __slots__ = ("_blank", "_closed", "_held", "_opening", "_thoughts", "passing")

    def __init__(self) -> None:
        self.passing = False
        self._blank: list[str] = []  # leading white space
        self._held = ""
        self._opening = ""
        self._closed = False
        self._thoughts: list[str] = []

    def feed(self, text: str) -> Split:
        """Return the text and reasoning that are certain by now, and were not returned before."""
        text, self._held = self._held + text, ""
        if self.passing:
            return Split(text, "")
        if self._closed:
            return self._answer(text)
        if self._opening:
            return self._think(text)
        return self._begin(text)

    def _begin(self, text: str) -> Split:
        if not text.strip():
            self._blank.append(text)
            return Split("", "")
        text = "".join((*self._blank, text))
        self._blank.clear()
        begun = text.lstrip()
        head = next((head for head in _HEADS if begun.startswith(head)), None)
        if head is not None:
            rest = begun[len(head) :]
            if head not in _TAGS:
                return self._answer(rest)
            self._opening = head
            return self._think(rest)
        if any(head.startswith(begun) for head in _HEADS):
            self._held = text
            return Split("", "")
        self.passing = True
        return Split(text, "")

    def _think(self, text: str) -> Split:
        closing = _TAGS[self._opening]
        thought, end, rest = text.partition(closing)
        if end:
            self._thoughts.clear()
            return Split(self._answer(rest).text, thought)
        kept = _length_of_begun(text, closing)
        if kept:
            text, self._held = text[:-kept], text[-kept:]
        self._thoughts.append(text)
        return Split("", text)

    def _answer(self, text: str) -> Split:
        text = text.lstrip()
        self._closed = True
        self.passing = bool(text)
        return Split(text, "")

    def let_go(self) -> str:
        """Return held text that turned out to begin no tag; "" inside a tag or if only white space came.

        Everything after it is text.
        """
        if self._opening or self._closed or not self._held:
            return ""
        self.passing = True
        held, self._held = "".join((*self._blank, self._held)), ""
        self._blank.clear()
        return held

    def flush(self, *, ended_well: bool) -> Split:
        """Return the rest, when no more text will come.

        A reply that `ended_well` inside its tag was no reasoning: all of it is text.
        """
        held, self._held = "".join((*self._blank, self._held)), ""
        self._blank.clear()
        if not self._opening or self._closed:
            return Split(held, "")
        if ended_well:
            return Split(self._opening + "".join(self._thoughts) + held, "")
        return Split("", held)


def _length_of_begun(text: str, tag: str) -> int:
    """Return the number of characters at the end of `text` that may begin `tag`."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if tag.startswith(text[-length:])), 0)
