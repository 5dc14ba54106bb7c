/**
 * Markdown that is still being written, made whole: `**bol` is shown as bold, not as two stars that
 * turn bold later, so that nothing on the page changes its look when the rest arrives.
 */

/** A last line that may become a list, a heading, a rule or the underline of one: not shown yet. */
const UNDECIDED_LINE = /(?:^|\n)[ \t>]*(?:[-+*=_#~>|:`]+|\d{1,9}[.)]?)[ \t]*$/;

const MARKER = /\\.|`+|\*+|_+|~~|!?\[|\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:\)|$)|\]/gsu;

/** Returns the text of one unfinished block with its open markers closed. */
export function mend(block: string): string {
  const undecided = UNDECIDED_LINE.exec(block);
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
      if (closing < 0) return whole(end < text.length ? `${text}${marker}` : text.slice(0, at), open);
      MARKER.lastIndex = closing;
    } else if (marker.endsWith("[")) {
      open.push({ marker, at });
    } else if (marker.startsWith("]")) {
      const link = open.findLastIndex((one) => one.marker.endsWith("["));
      if (link < 0) continue;
      const opener = open[link] as { marker: string; at: number };
      // The address is not all here: show the text that will be the link.
      if (marker.startsWith("](") && !marker.endsWith(")")) {
        const label = text.slice(opener.at + opener.marker.length, at);
        return whole(text.slice(0, opener.at) + label, open.slice(0, link));
      }
      open.length = link;
    } else {
      emphasis(text, marker, at, end, open);
    }
  }
  return whole(text, open);
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
    if (marker.endsWith("[")) result = result.slice(0, at) + result.slice(end);
    else if (result.slice(end).trim() === "") result = result.slice(0, at);
    else tail += marker;
  }
  const trimmed = tail === "" ? result : result.trimEnd();
  return trimmed + tail;
}
