/**
 * The HTTP calls of Parley, with endpoints and authentication given from outside.
 *
 *     const client = new ParleyClient({ auth: { kind: "trusted", userId: "demo-free" } });
 *     const { sessionId } = await client.start({ prompt: "Hello", modelId: "demo" }, crypto.randomUUID());
 */

import { delay, sleep } from "./backoff";
import { ApiError, errorOf, networkError } from "./errors";
import type { ChatPage, HistoryPage, OfferedModel, Started, StartRequest } from "./wire";

/** One URL per path, since each function of a deployment may have its own. */
export interface Endpoints {
  start: string;
  stop: string;
  stream: string;
  history: string;
  list: string;
  models: string;
}

/** All paths below one base, as on the laptop and behind CloudFront. */
export function endpointsBelow(base: string): Endpoints {
  const chat = `${base.replace(/\/+$/, "")}/chat`;
  return {
    start: `${chat}/start`,
    stop: `${chat}/stop`,
    stream: `${chat}/stream`,
    history: `${chat}/history`,
    list: `${chat}/list`,
    models: `${chat}/models`,
  };
}

/** Who asks: a name that a trusting server believes, or a token that proves it. */
export type Auth =
  | { kind: "trusted"; userId: string }
  | { kind: "bearer"; getToken: () => string | null | Promise<string | null> };

export interface ClientOptions {
  auth: Auth;
  endpoints?: Endpoints;
  fetch?: typeof fetch;
  /** Longest wait for one answer, milliseconds. */
  timeoutMs?: number;
  /** The server does not know, or no longer knows, who asks. The call fails as well. */
  onUnauthorized?: () => void;
}

/** Tries of a request that may be repeated, the first one included. */
const TRIES = 3;
const BACKOFF = { baseMs: 400, maxMs: 3000 };

/** A server that asks for a longer wait than this is shown to the person instead. */
const LONGEST_WAIT_MS = 5000;

export class ParleyClient {
  readonly endpoints: Endpoints;
  readonly fetch: typeof fetch;
  private readonly auth: Auth;
  private readonly timeoutMs: number;
  private readonly onUnauthorized: (() => void) | undefined;

  constructor(options: ClientOptions) {
    this.auth = options.auth;
    this.endpoints = options.endpoints ?? endpointsBelow("/api");
    this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.timeoutMs = options.timeoutMs ?? 20_000;
    this.onUnauthorized = options.onUnauthorized;
  }

  /**
   * Opens a session. The same `key` with the same request is the same send, however often it
   * arrives, so a lost answer is asked for again. Raises `ApiError`.
   */
  start(request: StartRequest, key: string, signal?: AbortSignal): Promise<Started> {
    return this.write(this.endpoints.start, request, signal, { "Idempotency-Key": key });
  }

  /** Ends a session's reply; what was produced is kept. Repeating it changes nothing. */
  async stop(sessionId: string, signal?: AbortSignal): Promise<void> {
    await this.write(this.endpoints.stop, { sessionId }, signal);
  }

  history(chatId: string, page: { before?: string; since?: number; limit?: number } = {}, signal?: AbortSignal): Promise<HistoryPage> {
    return this.read(this.endpoints.history, { chatId, ...page }, signal);
  }

  list(page: { before?: string; limit?: number } = {}, signal?: AbortSignal): Promise<ChatPage> {
    return this.read(this.endpoints.list, page, signal);
  }

  async models(signal?: AbortSignal): Promise<OfferedModel[]> {
    const body = await this.read<{ models: OfferedModel[] }>(this.endpoints.models, {}, signal);
    return body.models;
  }

  /**
   * The address of a session's stream. The session id is the right to read it, so no header goes
   * along, and a stream from another origin needs no preflight.
   */
  streamUrl(sessionId: string, cursor: string | null): string {
    return withQuery(this.endpoints.stream, { sessionId, cursor: cursor ?? undefined });
  }

  private read<T>(url: string, query: Record<string, string | number | undefined>, signal?: AbortSignal): Promise<T> {
    const userId = this.auth.kind === "trusted" ? this.auth.userId : undefined;
    return this.send(withQuery(url, { ...query, userId }), { method: "GET" }, signal);
  }

  private write<T>(url: string, body: object, signal?: AbortSignal, headers: Record<string, string> = {}): Promise<T> {
    const userId = this.auth.kind === "trusted" ? this.auth.userId : undefined;
    return this.send(
      url,
      {
        method: "POST",
        headers: { "Content-Type": "application/json", ...headers },
        body: JSON.stringify({ ...body, userId }),
      },
      signal,
    );
  }

  private async send<T>(url: string, init: RequestInit, signal = new AbortController().signal): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return (await this.sendOnce(url, init, signal)) as T;
      } catch (thrown) {
        const error = networkError(thrown, signal);
        if (!(error instanceof ApiError) || !error.retryable || attempt >= TRIES) throw error;
        const wait = delay(attempt, BACKOFF, error.retryAfterMs);
        if (wait > LONGEST_WAIT_MS) throw error;
        await sleep(wait, signal);
        signal.throwIfAborted();
      }
    }
  }

  private async sendOnce(url: string, init: RequestInit, signal: AbortSignal): Promise<unknown> {
    const headers = new Headers(init.headers);
    if (this.auth.kind === "bearer") {
      const token = await this.auth.getToken();
      if (token) headers.set("Authorization", `Bearer ${token}`);
    }
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(this.timeoutMs)]);
    const response = await this.fetch(url, { ...init, headers, signal: bounded, cache: "no-store" });
    if (response.status === 401) this.onUnauthorized?.();
    if (!response.ok) throw await errorOf(response);
    const text = await response.text();
    try {
      return JSON.parse(text);
    } catch {
      throw new ApiError("bad_response", "The server answered with something else than JSON.", {
        status: response.status,
      });
    }
  }
}

function withQuery(url: string, query: Record<string, string | number | undefined>): string {
  const pairs = Object.entries(query).filter((pair): pair is [string, string | number] => pair[1] !== undefined);
  if (pairs.length === 0) return url;
  const search = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]));
  return `${url}${url.includes("?") ? "&" : "?"}${search}`;
}
