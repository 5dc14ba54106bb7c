"""Reasoning that a model writes into its text, in tags at the beginning: `<think>…</think>`, then the answer.

Servers without a parser for their model's reasoning pass it on so. Templates that open the tag themselves
(the first DeepSeek R1) leave only its end in the text, which nothing tells from an answer while it streams.
"""

from typing import NamedTuple

_TAGS = {
    "<think>": "</think>",  # DeepSeek R1, Qwen 3, GLM, Kimi K2, MiniMax, and most others
    "<thinking>": "</thinking>",  # models that were told to by a prompt
    "<thought>": "</thought>",  # Gemini's endpoint for OpenAI's wire
    "<reasoning>": "</reasoning>",  # gpt-oss and Kimi on Bedrock
    "<mm:think>": "</mm:think>",  # MiniMax M3
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi VL
}
# A reply may begin with the end of an empty tag.
_HEADS = (*_TAGS, *_TAGS.values())


class Split(NamedTuple):
    """A piece of a reply: what it says, and what it thinks."""

    text: str
    reasoning: str


class ThinkTags:
    """Takes a reply's text piece by piece, and tells its reasoning from its answer.

    A tag in the middle of a reply is text. What may be the beginning of a tag is held back. Once `passing`,
    all that follows is text.
    """

    __slots__ = ("_blank", "_closed", "_held", "_opening", "_thoughts", "passing")

    def __init__(self) -> None:
        self.passing = False
        self._blank: list[str] = []  # white space so far
        self._held = ""
        self._opening = ""
        self._closed = False
        self._thoughts: list[str] = []

    def feed(self, text: str) -> Split:
        """Return what can be told of everything fed so far and not yet returned."""
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
        """Return the text that was held back for a tag that does not come; nothing inside a tag, or of a
        blank.

        All that follows is text then.
        """
        if self._opening or self._closed or not self._held:
            return ""
        self.passing = True
        held, self._held = "".join((*self._blank, self._held)), ""
        self._blank.clear()
        return held

    def flush(self, *, ended_well: bool) -> Split:
        """Return what is left when no more text will come.

        A reply that `ended_well` before its tag did was no reasoning: all of it is the answer.
        """
        held, self._held = "".join((*self._blank, self._held)), ""
        self._blank.clear()
        if not self._opening or self._closed:
            return Split(held, "")
        if ended_well:
            return Split(self._opening + "".join(self._thoughts) + held, "")
        return Split("", held)


def _length_of_begun(text: str, tag: str) -> int:
    """Return how many characters at the end of `text` may begin `tag`."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if tag.startswith(text[-length:])), 0)
