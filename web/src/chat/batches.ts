/** Gathers what arrives between two pictures of the screen, so that a page draws once per picture. */

import type { Received } from "./connection";

/** A hidden page draws no pictures, but its text still grows. */
const LATEST_MS = 100;

export class Batches {
  private readonly deliver: (received: Received[]) => void;
  private waiting: Received[] = [];
  private frame: number | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(deliver: (received: Received[]) => void) {
    this.deliver = deliver;
  }

  add(received: Received[]): void {
    // One by one: a spread of what a full buffer holds may exceed the stack.
    for (const one of received) this.waiting.push(one);
    if (this.timer !== undefined) return;
    this.timer = setTimeout(() => this.flush(), LATEST_MS);
    if (typeof requestAnimationFrame === "function") this.frame = requestAnimationFrame(() => this.flush());
  }

  flush(): void {
    const received = this.waiting;
    this.clear();
    if (received.length > 0) this.deliver(received);
  }

  clear(): void {
    this.waiting = [];
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.frame !== undefined) cancelAnimationFrame(this.frame);
    this.frame = undefined;
  }
}
