/** One connection to a stream: fetch it, check that it is one, hand over its frames until it ends. */

import { ApiError, errorOf, networkError } from "./errors";
import { SseDecoder } from "./sse";
import { type Frame, parseFrame } from "./wire";

/** A frame with the cursor it brings the reader to; empty while the stream has named none. */
export interface Received {
  frame: Frame;
  cursor: string;
}

/**
 * How a connection ended: by the reply's end; because everything had been delivered before (204);
 * or, to be resumed, dropped, or given up since nothing was heard of it any more.
 */
export type Outcome = "ended" | "delivered" | "dropped" | "silent";

export interface Connect {
  fetch: typeof fetch;
  url: string;
  signal: AbortSignal;
  /** The server sends a heartbeat every 10 s; a connection silent for longer than this is dead. */
  silenceMs: number;
  onOpen: () => void;
  /** Something arrived, if only a heartbeat. */
  onHeard: () => void;
  /** The frames that arrived together. */
  onFrames: (received: Received[]) => void;
}

/** Reads a stream to its end. Raises `ApiError` where the answer is not a stream. */
export async function connect({ fetch, url, signal, silenceMs, onOpen, onHeard, onFrames }: Connect): Promise<Outcome> {
  const watch = new AbortController();
  let timer = setTimeout(silent, silenceMs);
  function silent() {
    watch.abort();
  }
  try {
    const either = AbortSignal.any([signal, watch.signal]);
    // `no-store` also keeps the service between browser and server from replaying an old stream.
    const response = await fetch(url, {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
      signal: either,
    });
    if (response.status === 204) return "delivered";
    if (!response.ok) throw await errorOf(response);
    const type = response.headers.get("Content-Type") ?? "";
    if (!/^text\/event-stream\s*(;|$)/i.test(type) || response.body === null) {
      void response.body?.cancel();
      throw new ApiError("bad_response", "The answer is not an event stream.", {
        status: response.status,
        retryable: true,
      });
    }
    onOpen();
    const reader = response.body.getReader();
    // The reader of events takes away the one byte order mark that may be there.
    const text = new TextDecoder("utf-8", { ignoreBOM: true });
    const decoder = new SseDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return "dropped";
      clearTimeout(timer);
      timer = setTimeout(silent, silenceMs);
      onHeard();
      const received = framesOf(decoder, text.decode(value, { stream: true }));
      if (received.length > 0) onFrames(received);
      if (received.some(({ frame }) => frame.type === "done" || frame.type === "error")) {
        void reader.cancel();
        return "ended";
      }
    }
  } catch (thrown) {
    if (signal.aborted) throw thrown;
    if (watch.signal.aborted) return "silent";
    throw networkError(thrown, signal);
  } finally {
    clearTimeout(timer);
  }
}

function framesOf(decoder: SseDecoder, text: string): Received[] {
  const received: Received[] = [];
  for (const event of decoder.feed(text)) {
    const frame = parseFrame(event.data);
    if (frame) received.push({ frame, cursor: event.lastEventId });
  }
  return received;
}
