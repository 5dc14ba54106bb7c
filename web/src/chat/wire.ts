/** What goes over the wire, as types: the HTTP bodies and the frames of a stream. */

export type FinishReason = "stop" | "length" | "content_filter" | "stopped" | "truncated";
export type MessageStatus = "pending" | "complete" | "stopped" | "truncated" | "filtered" | "failed";
export type Source = "provider" | "cache" | "joined" | "history";

/** Tokens as the provider counted them. */
export interface Usage {
  inputTokens: number;
  outputTokens: number;
  totalTokens: number;
}

export interface StartFrame {
  type: "start";
  sessionId: string;
  chatId: string;
  messageId: string;
  modelId: string;
  source: Source;
  /** Messages of the chat that the model is not sent, since its context does not take them; with `contextFrom`. */
  leftOut?: number;
  /** The first message that the model is sent. */
  contextFrom?: string;
}

export interface TokenFrame {
  type: "token";
  content: string;
}

export interface DoneFrame {
  type: "done";
  finishReason: FinishReason;
  usage: Usage | null;
  messageId: string;
  saved: boolean;
}

export interface ErrorFrame {
  type: "error";
  code: string;
  message: string;
  retryable: boolean;
  retryAfterMs?: number;
  saved: boolean;
}

/** What goes on while there is no text. */
export type StatusFrame =
  | { type: "status"; state: "retrying" | "fallback" }
  /** The provider took the question for too long, so more of the chat is left out. */
  | { type: "status"; state: "shortened"; leftOut: number; contextFrom: string }
  /** The model had been at it for `elapsedMs` when this was sent; comes every 10 s until there is text. */
  | { type: "status"; state: "thinking"; elapsedMs: number };

/** A frame of a stream. Frames of other types, or states, are from a newer server and are passed over. */
export type Frame =
  | StartFrame
  | { type: "typing" }
  | TokenFrame
  | StatusFrame
  | { type: "reset"; reason: string }
  | DoneFrame
  | ErrorFrame;

const FRAME_TYPES = new Set(["start", "typing", "token", "status", "reset", "done", "error"]);

/** Reads one event's data; null for what this client does not know. */
export function parseFrame(data: string): Frame | null {
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null || !("type" in value)) return null;
  if (!FRAME_TYPES.has(value.type as string)) return null;
  if (value.type === "token" && typeof (value as TokenFrame).content !== "string") return null;
  if (value.type === "status" && !isStatus(value as Partial<StatusFrame>)) return null;
  return value as Frame;
}

function isStatus(value: Partial<StatusFrame>): boolean {
  if (value.state === "thinking") return Number.isFinite(value.elapsedMs);
  if (value.state === "shortened") return Number.isFinite(value.leftOut) && typeof value.contextFrom === "string";
  return value.state === "retrying" || value.state === "fallback";
}

/**
 * POST /chat/start. In a chat it names what is known of it: `parentId` the message that a question follows, `replaces`
 * the reply that is asked for anew. With `regenerate`, the last question is asked again, whatever came since.
 */
export interface StartRequest {
  prompt?: string;
  modelId: string;
  chatId?: string;
  parentId?: string;
  replaces?: string;
  regenerate?: boolean;
}

export interface Started {
  sessionId: string;
  chatId: string;
  messageId: string;
  replyId: string;
  expiresAt: string;
}

export interface WireMessage {
  id: string;
  position: number;
  role: "user" | "assistant";
  status: MessageStatus;
  parts: { type: string; text?: string }[];
  modelId: string | null;
  replyTo: string | null;
  supersededBy: string | null;
  source: Source | null;
  finishReason: FinishReason | null;
  errorCode: string | null;
  usage: Usage | null;
  createdAt: string;
  completedAt: string | null;
}

/**
 * GET /chat/history: messages oldest first; `nextBefore` leads to the older ones. Asked for what changed since a
 * `revision`, it has that alone, unless `reset` says that it is the newest page, in place of all that is known.
 */
export interface HistoryPage {
  chatId: string;
  title: string;
  messages: WireMessage[];
  nextBefore: string | null;
  activeSessionId: string | null;
  revision: number;
  reset: boolean;
}

export interface ChatSummary {
  chatId: string;
  title: string;
  modelId: string | null;
  createdAt: string;
  updatedAt: string;
  activeSessionId: string | null;
}

/** GET /chat/list: the latest first. */
export interface ChatPage {
  chats: ChatSummary[];
  nextBefore: string | null;
}

/** GET /chat/models; `available` says whether the user can ask it now, else why not. */
export interface OfferedModel {
  id: string;
  title: string;
  provider: string;
  available: boolean;
  unavailableBecause: "model_not_in_plan" | "model_not_configured" | null;
  plans: string[];
}
