/**
 * One chat in a browser: its state, the calls that change it, and the stream it follows.
 *
 * It knows nothing of React; `subscribe` and `getState` are what a view needs. Nothing it does
 * throws: what fails becomes the state's `problem`, and `retry` does the fitting thing about it.
 */

import type { ParleyClient } from "./client";
import { Batches } from "./batches";
import { ApiError } from "./errors";
import { follow, type Follow } from "./follow";
import { type Happening, reduce } from "./reducer";
import { type ChatState, emptyChat, type Failure, lastKnown } from "./state";
import type { Started, StartRequest } from "./wire";

export interface ConversationOptions {
  client: ParleyClient;
  chatId: string | null;
  /** A question was taken; for a new chat this is how its id becomes known. */
  onStarted?: (started: Started) => void;
  /** A reply ended, however it did. */
  onSettled?: (chatId: string) => void;
  /** Messages of one page of history. */
  pageSize?: number;
  following?: Pick<Follow, "signals" | "backoff" | "attempts" | "silenceMs">;
}

/** What would be sent again: the same key makes it the same send. */
interface Send {
  key: string;
  request: StartRequest;
  questionKey: string;
}

export class Conversation {
  private state: ChatState;
  private readonly options: ConversationOptions;
  private readonly listeners = new Set<() => void>();
  private readonly batches: Batches;
  private whole = new AbortController();
  private lastSend: Send | null = null;
  private refreshing = false;

  constructor(options: ConversationOptions) {
    this.options = options;
    this.state = emptyChat(options.chatId);
    this.batches = new Batches((received) => this.apply({ type: "received", received, at: performance.now() }));
  }

  readonly getState = (): ChatState => this.state;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Loads the newest page, or what changed since, and attaches to the reply in production, if there is one. */
  async load(): Promise<void> {
    if (this.state.chatId === null) return;
    this.apply({ type: "loading" });
    try {
      await this.loadNews(this.state.chatId);
    } catch (thrown) {
      this.fail(thrown, (failure, error) => ({ type: "load failed", failure, missing: error.status === 404 }));
    }
  }

  /**
   * Shows what was asked and answered elsewhere meanwhile: another tab, another device. It is nobody's wish, so what
   * fails of it is not told; the next occasion, or the next question, brings it.
   */
  async refresh(): Promise<void> {
    const { chatId, history, reply } = this.state;
    if (chatId === null || history !== "loaded" || reply !== null || this.refreshing) return;
    this.refreshing = true;
    try {
      await this.loadNews(chatId);
    } catch (thrown) {
      if (!(thrown instanceof ApiError || (thrown instanceof DOMException && thrown.name === "AbortError"))) throw thrown;
    } finally {
      this.refreshing = false;
    }
  }

  private async loadNews(chatId: string): Promise<void> {
    const { revision } = this.state;
    const { signal } = this.whole;
    const since = revision === null ? {} : { since: revision };
    const page = await this.options.client.history(chatId, { ...this.page(), ...since }, signal);
    if (signal.aborted) return;
    this.apply({ type: revision === null || page.reset ? "loaded" : "changed", page });
    if (page.activeSessionId !== null && this.state.reply === null) this.attach(page.activeSessionId);
  }

  async loadOlder(): Promise<void> {
    const { chatId, nextBefore, loadingOlder } = this.state;
    if (chatId === null || nextBefore === null || loadingOlder) return;
    const { signal } = this.whole;
    this.apply({ type: "loading older" });
    try {
      const page = await this.options.client.history(chatId, { ...this.page(), before: nextBefore }, signal);
      this.apply({ type: "older loaded", page });
    } catch (thrown) {
      this.fail(thrown, (failure) => ({ type: "load failed", failure, missing: false }));
    }
  }

  /**
   * Asks; does nothing for an empty prompt or while a reply is being produced. The same `key` asks the same question
   * once, also from another page.
   */
  async send(prompt: string, modelId: string, key = newKey()): Promise<void> {
    if (prompt.trim() === "" || this.state.reply !== null) return;
    const request: StartRequest = { prompt, modelId };
    if (this.state.chatId !== null) request.chatId = this.state.chatId;
    const parentId = lastKnown(this.state.messages);
    if (request.chatId !== undefined && parentId !== undefined) request.parentId = parentId;
    await this.start({ key, request, questionKey: newKey() });
  }

  /** Asks the last question again, past the cache; the new reply takes the place of the last. */
  async regenerate(modelId: string): Promise<void> {
    const { chatId, reply, messages } = this.state;
    if (chatId === null || reply !== null) return;
    const replaces = lastKnown(messages, "assistant");
    const request: StartRequest = { modelId, chatId, ...(replaces === undefined ? { regenerate: true } : { replaces }) };
    await this.start({ key: newKey(), request, questionKey: "" });
  }

  /** Does what helps against the current problem; `modelId` answers where a reply is asked for anew. */
  async retry(modelId: string): Promise<void> {
    switch (this.state.problem?.about) {
      case "load":
        return this.load();
      case "send":
        return this.lastSend ? this.start(this.lastSend) : undefined;
      case "reply":
        return this.regenerate(modelId);
      case "stop":
        return this.stop();
      case "connection": {
        const sessionId = this.state.reply?.sessionId;
        this.abandon();
        this.apply({ type: "problem dismissed" });
        if (sessionId) this.attach(sessionId);
        return undefined;
      }
      case undefined:
        return undefined;
    }
  }

  /** Stops the reply; its end still comes over the stream. */
  async stop(): Promise<void> {
    const reply = this.state.reply;
    if (reply === null) return;
    this.apply({ type: "stopping" });
    // Before the server named the session there is nothing to stop; `start` sees to it then.
    if (reply.sessionId === null) return;
    try {
      await this.options.client.stop(reply.sessionId, this.whole.signal);
    } catch (thrown) {
      this.fail(thrown, (failure) => ({ type: "stop failed", failure }));
    }
  }

  dismiss(): void {
    this.apply({ type: "problem dismissed" });
  }

  /** Tells that a view took `handedBack` over. */
  handBackTaken(): void {
    this.apply({ type: "hand back taken" });
  }

  /** Ends all that is going on here; the server's side goes on, and `load` finds it again. */
  dispose(): void {
    this.abandon();
    if (this.state.reply !== null) this.apply({ type: "reply gone", failure: null });
  }

  private abandon(): void {
    this.whole.abort();
    this.whole = new AbortController();
    this.batches.clear();
  }

  private page(): { limit?: number } {
    return this.options.pageSize === undefined ? {} : { limit: this.options.pageSize };
  }

  private async start(send: Send): Promise<void> {
    this.lastSend = send;
    const { request, questionKey } = send;
    const { modelId, prompt = "" } = request;
    const at = new Date().toISOString();
    const replyKey = newKey();
    const again = request.regenerate === true || request.replaces !== undefined;
    if (again) this.apply({ type: "asked again", modelId, replyKey, at });
    else this.apply({ type: "asked", prompt, modelId, questionKey, replyKey, at });
    const { signal } = this.whole;
    try {
      const started = await this.options.client.start(request, send.key, signal);
      if (signal.aborted) return;
      this.apply({ type: "started", started });
      this.options.onStarted?.(started);
      void this.follow(started.sessionId);
      if (this.state.reply?.stopping) await this.stop();
    } catch (thrown) {
      this.fail(thrown, (failure, error) => {
        // A send that may work later stays on the page; any other goes back to be changed.
        const handBack = error.retryable || again ? null : prompt;
        return { type: "not started", failure, handBack };
      });
      // Somebody asked here meanwhile: in another tab, or on another device.
      const elsewhere = thrown instanceof ApiError && (thrown.code === "chat_moved" || thrown.activeSessionId !== undefined);
      if (elsewhere && !signal.aborted) await this.load();
    }
  }

  private attach(sessionId: string): void {
    this.apply({ type: "attached", sessionId, replyKey: newKey(), at: new Date().toISOString() });
    void this.follow(sessionId);
  }

  private async follow(sessionId: string): Promise<void> {
    const { client, following, onSettled } = this.options;
    const { signal } = this.whole;
    const end = await follow({
      ...following,
      urlFor: (cursor) => client.streamUrl(sessionId, cursor),
      fetch: client.fetch,
      signal,
      onFrames: (received) => this.batches.add(received),
      onConnection: (connection) => {
        this.batches.flush();
        this.apply({ type: "connection", connection });
      },
    });
    if (signal.aborted) return;
    if (end.how === "ended") await this.batches.drained();
    else this.batches.flush();
    if (signal.aborted) return;
    if (end.how === "gone") {
      const { code, message, retryable } = end.error;
      this.apply({ type: "reply gone", failure: { code, message, retryable } });
      await this.load();
    } else if (end.how === "delivered") {
      this.apply({ type: "reply gone", failure: null });
      await this.load();
    }
    if (this.state.chatId !== null) onSettled?.(this.state.chatId);
  }

  private apply(happening: Happening): void {
    const before = this.state;
    this.state = reduce(before, happening);
    if (this.state !== before) for (const listener of this.listeners) listener();
  }

  private fail(thrown: unknown, happening: (failure: Failure, error: ApiError) => Happening): void {
    if (!(thrown instanceof ApiError)) {
      if (thrown instanceof DOMException && thrown.name === "AbortError") return;
      throw thrown;
    }
    const { code, message, retryable, retryAfterMs } = thrown;
    this.apply(happening({ code, message, retryable, retryAfterMs }, thrown));
  }
}

export function newKey(): string {
  // randomUUID exists only where the page is secure, and a laptop's address on the LAN is not.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
