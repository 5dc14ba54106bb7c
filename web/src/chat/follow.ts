/**
 * Follows a session's reply to its end, over as many connections as that takes.
 *
 * Anything but `done`, `error` or a refusal is a dropped connection: it is resumed from the cursor
 * of the last frame that was handed over, so a reader's text is always a prefix of the reply.
 */

import { type Backoff, delay, sleep } from "./backoff";
import { connect, type Received } from "./connection";
import { ApiError } from "./errors";
import { browserSignals, type Signals } from "./signals";
import type { Frame } from "./wire";

export type Connection =
  | { state: "connecting" }
  | { state: "open" }
  /** Trying again soon. While the browser says it is offline, it is not given up. */
  | { state: "waiting"; attempt: number; offline: boolean }
  /** Given up until the network or the person comes back; a reload is offered. */
  | { state: "lost"; error: ApiError };

/** `delivered`: everything had been read before; `gone`: refused for good; `aborted`: by the caller. */
export type FollowEnd = { how: "ended" | "delivered" | "aborted" } | { how: "gone"; error: ApiError };

export interface Follow {
  urlFor: (cursor: string | null) => string;
  fetch: typeof fetch;
  signal: AbortSignal;
  onFrames: (received: Received[]) => void;
  onConnection: (connection: Connection) => void;
  signals?: Signals;
  backoff?: Backoff;
  /** Failures in a row after which the connection counts as lost. */
  attempts?: number;
  silenceMs?: number;
  /** A connection that drops sooner makes the next wait longer, whatever it brought. */
  steadyMs?: number;
  /** A connection that lives so long after its greeting is no failure, whatever it brought. */
  aliveMs?: number;
}

/** Longer than the heartbeat: an open connection this quiet is replaced when the page is shown. */
const STALE_MS = 12_000;

export async function follow(options: Follow): Promise<FollowEnd> {
  const { urlFor, fetch, signal, onFrames, onConnection } = options;
  const { signals = browserSignals, backoff = { baseMs: 500, maxMs: 8000 } } = options;
  const { attempts = 6, silenceMs = 25_000, steadyMs = 10_000, aliveMs = 1_000 } = options;
  let cursor: string | null = null;
  let failures = 0;
  // A session has room for so many readers, and the newest lets the oldest go. Tabs that push each other
  // out have connections which are soon let go: the wait grows, though nothing fails. While the model is silent
  // they bring no text. A server that greets and hangs up at once is told from that by how long they live.
  let drops = 0;
  let reading = false;
  let left = false;
  let heardAt = 0;
  let interrupt = new AbortController();
  const unsubscribe = signals.on((what) => {
    left = what === "leave";
    const stale = Date.now() - heardAt > STALE_MS;
    if (reading ? left || what === "online" || stale : !left) interrupt.abort();
  });
  const phase = () => {
    interrupt = new AbortController();
    return AbortSignal.any([signal, interrupt.signal]);
  };
  try {
    while (!signal.aborted) {
      let failure = new ApiError("network", "The connection was lost.", { retryable: true });
      onConnection({ state: "connecting" });
      reading = true;
      heardAt = Date.now();
      const begunAt = heardAt;
      let greetedAt = Infinity;
      let silent = false;
      try {
        const outcome = await connect({
          fetch,
          url: urlFor(cursor),
          signal: phase(),
          silenceMs,
          onOpen: () => onConnection({ state: "open" }),
          onHeard: () => (heardAt = Date.now()),
          onFrames: (received) => {
            greetedAt = Math.min(greetedAt, Date.now());
            if (received.some(({ frame }) => isProgress(frame))) failures = 0;
            cursor = received.at(-1)?.cursor || cursor;
            onFrames(received);
          },
        });
        if (outcome === "ended" || outcome === "delivered") return { how: outcome };
        silent = outcome === "silent";
      } catch (thrown) {
        if (thrown instanceof ApiError) {
          if (refused(thrown)) return { how: "gone", error: thrown };
          failure = thrown;
        } else if (!signal.aborted && !left) {
          continue; // Interrupted in order to begin anew.
        }
      }
      reading = false;
      if (signal.aborted) break;
      if (!left) {
        if (!silent && Date.now() - greetedAt >= aliveMs) failures = 0;
        failures += 1;
        drops = Date.now() - begunAt < steadyMs ? drops + 1 : 1;
      }
      const offline = !signals.online();
      if (failures >= attempts && !offline) {
        onConnection({ state: "lost", error: failure });
        await sleep(Infinity, phase());
        failures = drops = 0;
      } else {
        onConnection({ state: "waiting", attempt: failures, offline });
        await sleep(left ? Infinity : delay(Math.max(failures, drops), backoff, failure.retryAfterMs), phase());
      }
    }
    return { how: "aborted" };
  } finally {
    unsubscribe();
  }
}

/** A server that greets, or only says that it is alive, and hangs up is failing too. */
function isProgress(frame: Frame): boolean {
  if (frame.type === "status") return frame.state !== "thinking";
  return frame.type !== "start" && frame.type !== "typing";
}

/** A status that another try cannot change: unknown, expired, or not allowed. */
function refused(error: ApiError): boolean {
  return !error.retryable && error.status >= 400 && error.status < 500 && ![408, 425, 429].includes(error.status);
}
