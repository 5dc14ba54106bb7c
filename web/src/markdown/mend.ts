/**
 * Markdown that is still being written, made whole: `**bol` is shown as bold, not as two stars that
 * turn bold later, so that nothing on the page changes its look when the rest arrives.
 */

/** A last line that may become a list, a box to tick, a heading, a rule or the underline of one: not shown yet. */
const UNDECIDED_LINE = /(?:^|\n)[ \t>]*(?:[-+*=_#~>|:`]+|\d{1,9}[.)]?|(?:[-+*]|\d{1,9}[.)])[ \t]+\[[ xX]?\]?)[ \t]*$/;

/** The first lines of what may become a table; a line this long is no row of names. */
const UNDECIDED_TABLE = /(?:^|\n)[ \t]*\|[^\n]{0,200}(?:\n[ \t]*(?:[|:-][-:| \t]*)?)?$/;

/** Behind a link's text: its address, perhaps with brackets in it, perhaps with a title, as far as they are here. */
const TARGET = /\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:[ \t]+(?:"[^"\n]*(?:"|$)|'[^'\n]*(?:'|$))?[ \t]*)?(?:\)|\([^()\s]*$|$)/;

const MARKER = new RegExp(`\\\\.|\`+|\\*+|_+|~~|!?\\[|${TARGET.source}|\\]`, "gsu");

/** Returns the text of one unfinished block with its open markers closed; `type` is what it is so far. */
export function mend(block: string, type = "paragraph"): string {
  const table = type === "paragraph" ? UNDECIDED_TABLE.exec(block) : null;
  const undecided = type === "table" ? null : (table ?? UNDECIDED_LINE.exec(block));
  const text = undecided ? block.slice(0, undecided.index) : block;
  const start = text.lastIndexOf("\n\n") + 1;
  return text.slice(0, start) + close(text.slice(start));
}

function close(text: string): string {
  const open: { marker: string; at: number }[] = [];
  MARKER.lastIndex = 0;
  for (let match = MARKER.exec(text); match; match = MARKER.exec(text)) {
    const marker = match[0];
    const at = match.index;
    const end = at + marker.length;
    if (marker.startsWith("\\")) continue;
    if (marker.startsWith("`")) {
      const closing = closingTicks(text, marker.length, end);
      if (closing < 0) return whole(/[^`\s]/.test(text.slice(end)) ? closedCode(text, marker) : text.slice(0, at), open);
      MARKER.lastIndex = closing;
    } else if (marker.endsWith("[")) {
      open.push({ marker, at });
    } else if (marker.startsWith("]")) {
      const link = open.findLastIndex((one) => one.marker.endsWith("["));
      if (link < 0) continue;
      const opener = open[link] as { marker: string; at: number };
      // The address is not here, or not all of it: show the text that will be the link.
      if (marker === "]" ? end === text.length : !balanced(marker)) {
        const label = shownAs(opener.marker) + text.slice(opener.at + opener.marker.length, at);
        return whole(text.slice(0, opener.at) + label, open.slice(0, link));
      }
      open.length = link;
    } else {
      emphasis(text, marker, at, end, open);
    }
  }
  return whole(text, open);
}

/** A run of ticks that grew by those at the text's end would close nothing. */
function closedCode(text: string, marker: string): string {
  return `${text}${text.endsWith("`") ? " " : ""}${marker}`;
}

/** What stands before the text of a link or a picture, as `Inline` shows it. */
function shownAs(opener: string): string {
  return opener === "![" ? "Image: " : "";
}

function balanced(marker: string): boolean {
  return marker.split("(").length === marker.split(")").length;
}

/** Opens or closes stars, underscores and tildes, by the neighbours that CommonMark looks at. */
function emphasis(text: string, marker: string, at: number, end: number, open: { marker: string; at: number }[]): void {
  const before = text[at - 1] ?? " ";
  const after = text[end] ?? "";
  const word = /[\p{L}\p{N}]/u;
  if (marker.startsWith("_") && word.test(before) && word.test(after)) return;
  const last = open.findLastIndex((one) => one.marker === marker);
  if (last >= 0 && !/\s/.test(before)) open.length = last;
  else if (after === "" || !/\s/.test(after)) open.push({ marker, at });
}

function closingTicks(text: string, length: number, from: number): number {
  for (const run of text.slice(from).matchAll(/`+/g)) {
    if (run[0].length === length) return from + run.index + length;
  }
  return -1;
}

/** Closes what is open; a marker with nothing behind it yet is left out. */
function whole(text: string, open: { marker: string; at: number }[]): string {
  let result = text;
  let tail = "";
  for (const { marker, at } of open.toReversed()) {
    const end = at + marker.length;
    if (marker.endsWith("[")) result = result.slice(0, at) + shownAs(marker) + result.slice(end);
    else if (result.slice(end).trim() === "") result = result.slice(0, at);
    else tail += marker;
  }
  const trimmed = tail === "" ? result : result.trimEnd();
  return trimmed + tail;
}
