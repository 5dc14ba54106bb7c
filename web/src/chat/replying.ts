/** What a stream does to a chat: its frames, and the connection they come over. */

import type { Received } from "./connection";
import type { Connection } from "./follow";
import { type ChatState, tooLong, withMessage, without, withReply } from "./state";
import { settled } from "./versions";
import type { DoneFrame, ErrorFrame, FinishReason, Frame, MessageStatus, StatusFrame, TokenFrame } from "./wire";

const STATUS: Record<FinishReason, MessageStatus> = {
  stop: "complete",
  length: "truncated",
  content_filter: "filtered",
  stopped: "stopped",
  truncated: "truncated",
};

/**
 * Applies frames that arrived together, at `at` by `performance.now()`; neighbouring tokens are one change,
 * however many they are.
 */
export function received(state: ChatState, batch: readonly Received[], at: number): ChatState {
  let text = "";
  for (const { frame } of batch) {
    if (frame.type === "token") {
      text += frame.content;
      continue;
    }
    if (text !== "") state = appended(state, text);
    text = "";
    state = applied(state, frame, at);
  }
  return text === "" ? state : appended(state, text);
}

function appended(state: ChatState, text: string): ChatState {
  const showing = state.reply?.phase === "streaming" && state.reply.note === null;
  const streaming = showing ? state : withReply(state, { phase: "streaming", note: null, thinkingSince: null });
  return withMessage(streaming, (message) => ({ text: message.text + text }));
}

function applied(state: ChatState, frame: Exclude<Frame, TokenFrame>, at: number): ChatState {
  switch (frame.type) {
    case "start":
      return withMessage(withReply(leavingOut(state, frame), { connection: "open", offline: false }), (message) => ({
        id: message.id ?? frame.messageId,
        modelId: frame.modelId,
        // A resumed connection joins its own reply; the first one knows where the reply came from.
        source: message.source ?? frame.source,
      }));
    case "typing":
      return withReply(state, { phase: "waiting" });
    case "status":
      return told(state, frame, at);
    case "reset":
      return withMessage(withReply(state, { phase: "waiting", thinkingSince: null }), { text: "" });
    case "done":
      return done(state, frame);
    case "error":
      return failed(state, frame);
  }
}

function told(state: ChatState, frame: StatusFrame, at: number): ChatState {
  if (frame.state === "shortened") return leavingOut(state, frame);
  return frame.state === "thinking" ? thinking(state, at - frame.elapsedMs) : noted(state, frame.state);
}

function leavingOut(state: ChatState, { leftOut, contextFrom }: { leftOut?: number; contextFrom?: string }): ChatState {
  if (leftOut === undefined || contextFrom === undefined) return state;
  return { ...state, leftOut: { messages: leftOut, contextFrom } };
}

function noted(state: ChatState, note: "retrying" | "fallback"): ChatState {
  return withReply(state, { note, thinkingSince: null });
}

function thinking(state: ChatState, since: number): ChatState {
  const reply = state.reply;
  if (reply?.phase !== "waiting") return state;
  // Each frame was some time on its way, which makes the beginning seem later than it was. So the earliest
  // is the nearest to the truth, and the time that is shown never goes back.
  return withReply(state, { note: null, thinkingSince: Math.min(since, reply.thinkingSince ?? since) });
}

function failed(state: ChatState, { code, message, retryable, retryAfterMs, saved }: ErrorFrame): ChatState {
  const failure = { code, message, retryable, retryAfterMs };
  const question = state.messages.findLast(({ role }) => role === "user");
  return {
    ...settled(withMessage(state, { status: "failed", failure, saved })),
    reply: null,
    problem: { about: "reply", failure },
    // The server has the question, so it stays; the next one is made from it.
    handedBack: tooLong(failure) && question ? question.text : state.handedBack,
  };
}

function done(state: ChatState, { finishReason, usage, messageId, saved }: DoneFrame): ChatState {
  const status = STATUS[finishReason] ?? "complete";
  return {
    ...settled(withMessage(state, ({ id }) => ({ id: id ?? messageId, status, finishReason, usage, saved }))),
    reply: null,
    problem: state.problem?.about === "connection" || state.problem?.about === "stop" ? null : state.problem,
  };
}

/** Says what the connection is doing, where a reply is waited for. */
export function connected(state: ChatState, now: Connection): ChatState {
  const offline = now.state === "waiting" && now.offline;
  const next = withReply(state, { connection: now.state, offline, thinkingSince: null });
  if (now.state === "lost") {
    const { code, message, retryable } = now.error;
    return { ...next, problem: { about: "connection", failure: { code, message, retryable } } };
  }
  return now.state === "open" ? { ...next, problem: without(state, "connection") } : next;
}

