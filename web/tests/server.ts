/** A stand-in for Parley's HTTP side: answers are queued by path, and what was asked is kept. */

import { endpointsBelow, ParleyClient } from "../src/chat/client";
import type { Signal, Signals } from "../src/chat/signals";

export interface Asked {
  path: string;
  query: URLSearchParams;
  headers: Headers;
  body: Record<string, unknown> | null;
}

type Answer = Response | (() => Response | Promise<Response>) | Error;

export class FakeServer {
  readonly asked: Asked[] = [];
  private readonly answers = new Map<string, Answer[]>();

  /** Queues answers for a path; the last one stays. */
  on(path: string, ...answers: Answer[]): this {
    this.answers.set(path, [...(this.answers.get(path) ?? []), ...answers]);
    return this;
  }

  to(path: string): Asked[] {
    return this.asked.filter((one) => one.path === path);
  }

  readonly fetch: typeof fetch = async (input, init) => {
    const url = new URL(String(input), "http://parley.test");
    const path = url.pathname.replace("/api/chat/", "");
    const body = typeof init?.body === "string" ? (JSON.parse(init.body) as Record<string, unknown>) : null;
    this.asked.push({ path, query: url.searchParams, headers: new Headers(init?.headers), body });
    const queue = this.answers.get(path) ?? [];
    const answer = queue.length > 1 ? queue.shift() : queue[0];
    if (answer === undefined) throw new TypeError(`nothing answers ${path}`);
    if (answer instanceof Error) throw answer;
    const response = typeof answer === "function" ? await answer() : answer.clone();
    init?.signal?.throwIfAborted();
    if (!response.body || !init?.signal) return response;
    return new Response(until(response.body, init.signal), response);
  };

  client(): ParleyClient {
    const auth = { kind: "trusted", userId: "demo-free" } as const;
    return new ParleyClient({ auth, endpoints: endpointsBelow("/api"), fetch: this.fetch });
  }
}

/** A body that fails once the request was aborted, as fetch's does. */
function until(body: ReadableStream<Uint8Array>, signal: AbortSignal): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream({
    start(controller) {
      signal.addEventListener("abort", () => {
        reader.cancel().catch(() => {}); // it may have broken before
        try {
          controller.error(signal.reason);
        } catch {
          // It had ended.
        }
      });
    },
    async pull(controller) {
      const { done, value } = await reader.read();
      if (signal.aborted) return;
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
}

export const json = (body: unknown, status = 200, headers: Record<string, string> = {}): Response =>
  new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json", ...headers } });

export const failure = (status: number, code: string, more: Record<string, unknown> = {}, headers = {}): Response =>
  json({ error: { code, message: `It is ${code}.`, retryable: false, ...more } }, status, headers);

/** A stream that breaks after these pieces, as an incomplete body does. */
export function broken(pieces: string[]): Response {
  const left = pieces.map((piece) => new TextEncoder().encode(piece));
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const piece = left.shift();
      if (piece) controller.enqueue(piece);
      else controller.error(new TypeError("network error"));
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
}

/** A stream of these pieces; `open` leaves it unfinished, as a server does that has more to say. */
export function sse(pieces: (string | Uint8Array)[], { open = false } = {}): Response {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const piece of pieces) {
        controller.enqueue(typeof piece === "string" ? new TextEncoder().encode(piece) : piece);
      }
      if (!open) controller.close();
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream; charset=utf-8" } });
}

/** A browser's signals, given by hand. */
export class FakeSignals implements Signals {
  isOnline = true;
  private listener: ((signal: Signal) => void) | undefined;
  readonly online = (): boolean => this.isOnline;
  readonly on = (listener: (signal: Signal) => void): (() => void) => {
    this.listener = listener;
    return () => (this.listener = undefined);
  };
  give(signal: Signal): void {
    this.listener?.(signal);
  }
}
