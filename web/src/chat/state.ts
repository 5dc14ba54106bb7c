/** What a chat looks like at one moment, as plain data. */

import type { Connection } from "./follow";
import type { FinishReason, MessageStatus, Source, Usage, WireMessage } from "./wire";

export interface Message {
  /** Names the message for as long as it is shown, while `id` is known only once the server told. */
  key: string;
  id: string | null;
  role: "user" | "assistant";
  text: string;
  status: MessageStatus;
  modelId: string | null;
  source: Source | null;
  finishReason: FinishReason | null;
  usage: Usage | null;
  failure: Failure | null;
  /** False where the reply could not be saved yet; the server does so later. */
  saved: boolean;
  position: number | null;
  supersededBy: string | null;
  createdAt: string;
}

/** An error fit to be shown. */
export interface Failure {
  code: string;
  message: string;
  retryable: boolean;
  retryAfterMs?: number | undefined;
}

/** The reply that is being produced: from the moment its question was sent to its end. */
export interface LiveReply {
  /** Of the assistant's message. */
  key: string;
  sessionId: string | null;
  phase: "sending" | "waiting" | "streaming";
  stopping: boolean;
  note: "retrying" | "fallback" | null;
  /**
   * When the model began to think, by `performance.now()`: known once the server says that it still does,
   * and null again with the first text, a reset, a note, or another connection.
   */
  thinkingSince: number | null;
  connection: Connection["state"];
  offline: boolean;
}

/**
 * What stands in the way, and so what can be done: `load` the history again, `send` the question
 * again, ask for the `reply` again, or reload because the `connection` is lost.
 */
export interface Problem {
  about: "load" | "send" | "reply" | "connection" | "stop";
  failure: Failure;
}

/** Whether the question alone is longer than the model takes, so that only another question or model helps. */
export function tooLong(failure: Failure | null): boolean {
  return failure?.code === "context_too_long";
}

/** Whether `retry` may help. A reply can be asked for anew, perhaps from another model, whatever it failed of. */
export function mayRetry({ about, failure }: Problem): boolean {
  return !tooLong(failure) && (failure.retryable || about === "reply");
}

export interface ChatState {
  chatId: string | null;
  title: string;
  history: "none" | "loading" | "loaded" | "failed" | "missing";
  messages: readonly Message[];
  nextBefore: string | null;
  /** What the page knows of the chat, by the server's count; null before it is loaded. */
  revision: number | null;
  /** What the model of the latest reply was not sent of the chat: so many messages, up to the one with this id. */
  leftOut: { messages: number; contextFrom: string } | null;
  loadingOlder: boolean;
  reply: LiveReply | null;
  problem: Problem | null;
  /** A question that was not taken, or is too long for its model, handed back so that it can be edited. */
  handedBack: string | null;
}

export function emptyChat(chatId: string | null): ChatState {
  return {
    chatId,
    title: "",
    history: chatId === null ? "none" : "loading",
    messages: [],
    nextBefore: null,
    revision: null,
    leftOut: null,
    loadingOlder: false,
    reply: null,
    problem: null,
    handedBack: null,
  };
}

/** The messages to show: a reply hides the earlier ones whose place it takes. */
export function shown(messages: readonly Message[]): Message[] {
  return messages.filter((message) => message.supersededBy === null);
}

/** The id of the last message that is shown, as far as the server has it; of this role, if one is given. */
export function lastKnown(messages: readonly Message[], role?: Message["role"]): string | undefined {
  const known = shown(messages).findLast(({ id, role: of }) => id !== null && (role === undefined || role === of));
  return known?.id ?? undefined;
}

export function fromWire(wire: WireMessage): Message {
  return {
    key: wire.id,
    id: wire.id,
    role: wire.role,
    text: wire.parts.map((part) => (part.type === "text" ? (part.text ?? "") : "")).join(""),
    status: wire.status,
    modelId: wire.modelId,
    source: wire.source,
    finishReason: wire.finishReason,
    usage: wire.usage,
    failure:
      wire.status === "failed" ? { code: wire.errorCode ?? "failed", message: "This reply failed.", retryable: true } : null,
    saved: true,
    position: wire.position,
    supersededBy: wire.supersededBy,
    createdAt: wire.createdAt,
  };
}

export function newMessage(fields: Pick<Message, "key" | "role" | "text" | "status" | "createdAt"> & Partial<Message>): Message {
  return {
    id: null,
    modelId: null,
    source: null,
    finishReason: null,
    usage: null,
    failure: null,
    saved: true,
    position: null,
    supersededBy: null,
    ...fields,
  };
}

/** The state's problem, unless it is about this. */
export function without(state: ChatState, about: Problem["about"]): Problem | null {
  return state.problem?.about === about ? null : state.problem;
}

export function withReply(state: ChatState, change: Partial<LiveReply>): ChatState {
  return state.reply ? { ...state, reply: { ...state.reply, ...change } } : state;
}

/** Changes the message that the live reply is written into. */
export function withMessage(state: ChatState, change: Partial<Message> | ((message: Message) => Partial<Message>)): ChatState {
  const key = state.reply?.key;
  const at = state.messages.findLastIndex((message) => message.key === key);
  const message = state.messages[at];
  if (key === undefined || !message) return state;
  const messages = state.messages.slice();
  messages[at] = { ...message, ...(typeof change === "function" ? change(message) : change) };
  return { ...state, messages };
}
