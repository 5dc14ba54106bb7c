/** Several replies to one question: which of them stands. The server decides the same when a reply ends. */

import type { ChatState, Message } from "./state";

/** Marks, controls and spaces, which show nothing. */
const INVISIBLE = /^[\s\p{Cc}\p{Cf}]*$/u;

/** Whether a reply answers its question. Only then does it take the place of an earlier one. */
export function answers({ role, status, text }: Message): boolean {
  const ended = status === "complete" || status === "stopped" || status === "truncated";
  return role === "assistant" && ended && !INVISIBLE.test(text);
}

/**
 * Settles the chat's last question once the live reply has ended. A reply that answers hides the others. One that
 * does not stands beside the good one that it hid for its time.
 */
export function settled(state: ChatState): ChatState {
  const key = state.reply?.key;
  const reply = state.messages.find((message) => message.key === key);
  if (!reply) return state;
  const question = state.messages.findLastIndex(({ role }) => role === "user");
  const stands = answers(reply);
  const messages = state.messages.map((message, index) => {
    if (index <= question || message.key === key) return message;
    if (stands) return message.supersededBy === null ? { ...message, supersededBy: reply.id ?? reply.key } : message;
    const hidden = message.supersededBy === reply.key || (reply.id !== null && message.supersededBy === reply.id);
    return hidden && answers(message) ? { ...message, supersededBy: null } : message;
  });
  return { ...state, messages };
}
