/** What asking does to a chat: a question is shown, taken by the server, or refused. */

import { type ChatState, type Failure, type LiveReply, newMessage } from "./state";
import type { Started } from "./wire";

/** A question leaves: shown at once, with an empty reply below it. */
export interface Asked {
  prompt: string;
  modelId: string;
  questionKey: string;
  replyKey: string;
  at: string;
}

/** The last question leaves again; its reply so far steps aside. */
export interface AskedAgain {
  modelId: string;
  replyKey: string;
  at: string;
}

function liveReply(key: string, sessionId: string | null): LiveReply {
  return {
    key,
    sessionId,
    phase: sessionId === null ? "sending" : "waiting",
    stopping: false,
    note: null,
    thinkingSince: null,
    connection: "connecting",
    offline: false,
  };
}

export function asked(state: ChatState, { prompt, modelId, questionKey, replyKey, at }: Asked): ChatState {
  // The key tells whether this is a retry: then the question is on the page already. A question
  // that the server never took gives way to another.
  const taken = state.messages.filter((message) => message.id !== null || message.key === questionKey);
  const there = taken.some((message) => message.key === questionKey);
  const question = newMessage({ key: questionKey, role: "user", text: prompt, status: "complete", createdAt: at });
  const reply = newMessage({ key: replyKey, role: "assistant", text: "", status: "pending", modelId, createdAt: at });
  return {
    ...state,
    messages: [...taken, ...(there ? [] : [question]), reply],
    reply: liveReply(replyKey, null),
    problem: null,
    leftOut: null,
  };
}

export function askedAgain(state: ChatState, { modelId, replyKey, at }: AskedAgain): ChatState {
  const last = state.messages.findLastIndex((message) => message.role === "user");
  const messages = state.messages.map((message, index) =>
    index > last && message.supersededBy === null ? { ...message, supersededBy: replyKey } : message,
  );
  const reply = newMessage({ key: replyKey, role: "assistant", text: "", status: "pending", modelId, createdAt: at });
  return { ...state, messages: [...messages, reply], reply: liveReply(replyKey, null), problem: null, leftOut: null };
}

export function started(state: ChatState, { chatId, sessionId, messageId, replyId }: Started): ChatState {
  const reply = state.reply;
  if (!reply) return state;
  const at = state.messages.findIndex((message) => message.key === reply.key);
  const messages = state.messages.map((message, index) => {
    if (index === at) return { ...message, id: replyId };
    if (index === at - 1 && message.role === "user") return { ...message, id: messageId };
    return message.supersededBy === reply.key ? { ...message, supersededBy: replyId } : message;
  });
  return { ...state, chatId, history: "loaded", messages, reply: { ...reply, sessionId, phase: "waiting" } };
}

export function notStarted(state: ChatState, failure: Failure, handBack: string | null): ChatState {
  const reply = state.reply;
  if (!reply) return state;
  const at = state.messages.findIndex((message) => message.key === reply.key);
  const kept = state.messages.filter((_, index) => index !== at && !(handBack !== null && index === at - 1));
  const messages = kept.map((message) =>
    message.supersededBy === reply.key ? { ...message, supersededBy: null } : message,
  );
  return {
    ...state,
    messages,
    reply: null,
    problem: { about: "send", failure },
    handedBack: handBack ?? state.handedBack,
  };
}

export function attached(state: ChatState, { sessionId, replyKey, at }: { sessionId: string; replyKey: string; at: string }): ChatState {
  const pending = state.messages.findLast((message) => message.role === "assistant" && message.status === "pending");
  if (pending) {
    const messages = state.messages.map((message) => (message === pending ? { ...pending, text: "" } : message));
    return { ...state, messages, reply: liveReply(pending.key, sessionId) };
  }
  const reply = newMessage({ key: replyKey, role: "assistant", text: "", status: "pending", createdAt: at });
  return { ...state, messages: [...state.messages, reply], reply: liveReply(replyKey, sessionId) };
}

