/** Long code in pieces, so that what grows at the end colours only its last piece. */

const LEAST = 2000;
const MOST = 5000;

/**
 * Cuts at the first empty line with unindented code behind it after `LEAST` characters, or at a
 * line's end after `MOST`. A cut depends on nothing behind it but one character, so the pieces of a
 * longer text begin with those of a shorter one. The pieces add up to the code.
 */
export function piecesOf(code: string): string[] {
  const pieces: string[] = [];
  let from = 0;
  while (code.length - from > LEAST) {
    const cut = cutAfter(code, from);
    if (cut < 0) break;
    pieces.push(code.slice(from, cut));
    from = cut;
  }
  pieces.push(code.slice(from));
  return pieces;
}

function cutAfter(code: string, from: number): number {
  const window = code.slice(from + LEAST, from + MOST);
  const empty = /\n\n+(?=\S)/.exec(window);
  if (empty) return from + LEAST + empty.index + empty[0].length;
  if (code.length <= from + MOST) return -1;
  const end = code.indexOf("\n", from + MOST);
  return end < 0 ? -1 : end + 1;
}
