/**
 * Markdown into blocks, for text that grows at its end.
 *
 * Appending can change only the last block, so the ones before it are parsed once and keep their
 * identity, and a view draws again only what changed. A text of any length costs its last block.
 */

import { Lexer, type Token, type TokensList } from "marked";
import { mend } from "./mend";

export class Blocks {
  private settled: Token[] = [];
  private prefix = "";
  private links: TokensList["links"] = {};

  /** The blocks of `text`; `growing` says that more is to come, so what is half written is mended. */
  update(text: string, growing: boolean): Token[] {
    // CommonMark knows other line ends, and the lexer would count them differently than we do.
    const source = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
    const defined = Object.keys(this.links).length > 0;
    if (!source.startsWith(this.prefix) || (!growing && defined)) this.clear();
    const rest = source.slice(this.prefix.length);
    const tokens = this.lex(rest);
    if (!growing) return [...this.settled, ...tokens];
    const last = tokens.findLastIndex((token) => token.type !== "space");
    const finished = tokens.slice(0, Math.max(0, last));
    const length = finished.reduce((sum, token) => sum + token.raw.length, 0);
    // The lexer's raw texts add up to the source; where they do not, nothing is settled.
    if (length > 0 && rest.startsWith(finished.map((token) => token.raw).join(""))) {
      this.settled = [...this.settled, ...finished];
      this.prefix = source.slice(0, this.prefix.length + length);
      return [...this.settled, ...this.mended(tokens.slice(last))];
    }
    return [...this.settled, ...finished, ...this.mended(tokens.slice(Math.max(0, last)))];
  }

  private mended(tokens: Token[]): Token[] {
    const token = tokens[0];
    if (!token || token.type === "code" || token.type === "html") return tokens;
    // The lexer ends a list's last line, which is not to say that it has ended.
    const raw = token.type === "list" ? token.raw.trimEnd() : token.raw;
    const whole = mend(raw, token.type);
    return whole === raw ? tokens : this.lex(whole);
  }

  private lex(text: string): Token[] {
    const lexer = new Lexer({ gfm: true });
    lexer.tokens.links = { ...this.links };
    const tokens = lexer.lex(text);
    this.links = { ...tokens.links };
    return [...tokens];
  }

  private clear(): void {
    this.settled = [];
    this.prefix = "";
    this.links = {};
  }
}
