"""Makes a chat's title: one line of its first prompt, without characters that hide or disorder text.

A title stands in lists, windows and terminals, beside text of others. A control or direction character in it
would change more than the title.
"""

import re
import unicodedata

# The title of a prompt of which nothing can be seen.
UNTITLED = "Untitled"

_ZERO_WIDTH_JOINER = "\u200d"
# Letters and symbols whose glyph is empty: BRAILLE PATTERN BLANK and two fillers of Hangul.
_EMPTY_GLYPHS = re.compile("[\u2800\u3164\uffa0]")
# A flag of a region, such as Scotland's, is written with tags. Tags elsewhere are hidden text.
_TAGS = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]{1,12}\U000e007f)|[\U000e0000-\U000e007f]")
# Format characters (category Cf) that have a glyph, or that form one: joiners, signs before numbers, tags.
_SHOWN_FORMATS = re.compile(
    "[\u200c\u200d\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U000e0020-\U000e007f]"
)
# Characters that only change their neighbours: joiners, selectors of variants, old fillers.
_DEPENDENT = "\u200c\u200d\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
_WITHOUT_NEIGHBOUR = re.compile(f"(?:^|(?<= ))[{_DEPENDENT}]+|[\u200c\u200d]+(?= |$)")
_REPEATED_JOINERS = re.compile("([\u200c\u200d])[\u200c\u200d]+")


def title_of(prompt: str, limit: int = 80) -> str:
    """Return a chat's title: the prompt on one line, cut at a word near `limit` code points.

    A word that is longer is cut between two characters as readers see them (Unicode Standard Annex 29). The
    title has a visible character, also where the prompt has none.
    """
    line = _one_line(prompt)
    if len(line) > limit:
        line = f"{line[: _end_of_cut(line, limit)].rstrip()}…"
    return line or UNTITLED


def shown_title(title: str) -> str:
    """Return a stored title as clients are given it; old titles were stored as they were typed."""
    if title.isascii() and title.isprintable() and title.strip():
        return title
    return _one_line(title) or UNTITLED


def _one_line(text: str) -> str:
    """Return the text on one line, without what hides or disorders; empty if nothing of it can be seen."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    line = " ".join(_EMPTY_GLYPHS.sub(" ", text).split())
    line = "".join(character for character in line if not _hides(character))
    line = _TAGS.sub(lambda found: found[1] or "", line)
    line = _REPEATED_JOINERS.sub(r"\1", " ".join(line.split()))
    return " ".join(_WITHOUT_NEIGHBOUR.sub("", line).split())


def _hides(character: str) -> bool:
    """Tell whether a character is a control, a lone surrogate, no character, or a format without a glyph.

    Formats without a glyph include the marks, embeddings, overrides and isolates of direction.
    """
    category = unicodedata.category(character)
    if category == "Cf":
        return _SHOWN_FORMATS.match(character) is None
    code = ord(character)
    return category in ("Cc", "Cs") or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE


def _end_of_cut(line: str, limit: int) -> int:
    end = line.rfind(" ", 0, limit + 1)
    if end >= limit // 2:
        return end
    # No word ends in the second half: the cut goes through a word, or a script that has no spaces.
    end = limit
    while end > 0 and _belongs_together(line, end):
        end -= 1
    return end or limit


def _belongs_together(line: str, place: int) -> bool:
    """Tell whether a cut at `place` would split a character as readers see it; a subset of UAX 29's rules."""
    before, after = line[place - 1], line[place]
    if before == _ZERO_WIDTH_JOINER or unicodedata.combining(before) == 9:  # a virama binds the next letter
        return True
    if unicodedata.category(after) in ("Mn", "Mc", "Me", "Cf") or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    if _is_regional(before) and _is_regional(after):
        first = place
        while first > 0 and _is_regional(line[first - 1]):
            first -= 1
        return (place - first) % 2 == 1
    # Hangul's letters: leading consonants, then vowels and trailing consonants.
    if "\u1160" <= after <= "\u11ff" or "\ud7b0" <= after <= "\ud7fb":
        return True
    return "\u1100" <= before <= "\u115f" and ("\u1100" <= after <= "\u115f" or "\uac00" <= after <= "\ud7a3")


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
