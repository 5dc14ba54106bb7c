/** What is being written in each chat, and the key under which it was sent. */

import { newKey } from "../chat/conversation";
import { recall, remember } from "./memory";

const draftOf = (chatId: string | null): string => `draft.${chatId ?? "new"}`;
const sentOf = (chatId: string | null): string => `sent.${chatId ?? "new"}`;

export function recallDraft(chatId: string | null): string {
  return recall(draftOf(chatId)) ?? "";
}

/** Keeps a draft. Another text is another question, so it gets another key. */
export function keepDraft(chatId: string | null, text: string): void {
  if (text !== recallDraft(chatId)) remember(sentOf(chatId), null);
  remember(draftOf(chatId), text);
}

/** Forgets a draft that the server has taken, unless something else is being written. */
export function forgetDraft(chatId: string | null, prompt: string): void {
  if (recallDraft(chatId) !== prompt) return;
  remember(draftOf(chatId), null);
  remember(sentOf(chatId), null);
}

/**
 * The key to send a draft under: the one that it was sent under before, if nobody knows what became of that. A page that
 * is left before the server answers, and comes back to its draft, so asks once.
 */
export function keyOf(chatId: string | null, prompt: string, modelId: string): string {
  const question = JSON.stringify([modelId, prompt]);
  const before = recall(sentOf(chatId));
  const key = before?.slice(0, KEY) ?? "";
  if (before === key + question) return key;
  const fresh = newKey();
  if (recallDraft(chatId) === prompt) remember(sentOf(chatId), fresh + question);
  return fresh;
}

/** The length of a key. */
const KEY = 32;
