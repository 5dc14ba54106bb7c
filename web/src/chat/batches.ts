/**
 * Gathers what arrives between two pictures of the screen, so that a page draws once per picture; and spreads
 * what arrives all at once, as from a cache, over some pictures, so that none of them takes long.
 */

import type { Received } from "./connection";

/** A picture that does not come is not waited for longer than this, in milliseconds. */
const LATEST_MS = 100;

/** Characters that any picture may add, and pictures over which a backlog is spread. */
const LEAST = 400;
const PICTURES = 60;

export class Batches {
  private readonly deliver: (received: Received[]) => void;
  private waiting: Received[] = [];
  private characters = 0;
  private frame: number | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private drainers: (() => void)[] = [];

  constructor(deliver: (received: Received[]) => void) {
    this.deliver = deliver;
  }

  add(received: Received[]): void {
    // One by one: a spread of what a full buffer holds may exceed the stack.
    for (const one of received) {
      this.waiting.push(one);
      this.characters += sizeOf(one);
    }
    this.schedule();
  }

  /** Delivers all that waits. */
  flush(): void {
    const received = this.waiting;
    this.clear();
    if (received.length > 0) this.deliver(received);
  }

  /** Drops all that waits. */
  clear(): void {
    this.waiting = [];
    this.characters = 0;
    this.unschedule();
    for (const resolve of this.drainers.splice(0)) resolve();
  }

  /** Resolves once nothing waits any more. */
  async drained(): Promise<void> {
    if (this.waiting.length > 0) await new Promise<void>((resolve) => this.drainers.push(resolve));
  }

  private draw(): void {
    this.unschedule();
    // Nobody sees the pictures of a hidden page, but its text still grows.
    const seen = typeof document !== "undefined" && document.visibilityState === "visible";
    if (!seen || this.characters <= LEAST) return this.flush();
    this.deliver(this.take(Math.max(LEAST, Math.ceil(this.characters / PICTURES))));
    this.schedule();
  }

  /** Takes so many characters from the front, cutting the last token where it must. */
  private take(most: number): Received[] {
    let room = most;
    let count = 0;
    for (const one of this.waiting) {
      if (sizeOf(one) > room) break;
      room -= sizeOf(one);
      count += 1;
    }
    const taken = this.waiting.splice(0, count);
    const next = this.waiting[0];
    if (next?.frame.type === "token" && room > 0) {
      const { content } = next.frame;
      const at = inPair(content, room) ? room + 1 : room;
      taken.push({ ...next, frame: { type: "token", content: content.slice(0, at) } });
      this.waiting[0] = { ...next, frame: { type: "token", content: content.slice(at) } };
    }
    for (const one of taken) this.characters -= sizeOf(one);
    return taken;
  }

  private schedule(): void {
    if (this.timer !== undefined) return;
    this.timer = setTimeout(() => this.draw(), LATEST_MS);
    if (typeof requestAnimationFrame === "function") this.frame = requestAnimationFrame(() => this.draw());
  }

  private unschedule(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.frame !== undefined) cancelAnimationFrame(this.frame);
    this.frame = undefined;
  }
}

function sizeOf({ frame }: Received): number {
  return frame.type === "token" ? frame.content.length : 0;
}

/** Whether a cut there would tear a character in two. */
function inPair(text: string, at: number): boolean {
  const before = text.charCodeAt(at - 1);
  return before >= 0xd800 && before <= 0xdbff;
}
