/**
 * `useChat`: a chat as a React hook. It needs the client and nothing of this application's views.
 *
 *     const client = new ParleyClient({ auth: { kind: "trusted", userId: "demo-free" } });
 *
 *     function Chat({ chatId }: { chatId: string | null }) {
 *       const chat = useChat({ client, chatId, onStarted: ({ chatId }) => navigate(chatId) });
 *       return (
 *         <>
 *           {chat.messages.map((message) => <p key={message.key}>{message.text}</p>)}
 *           <button onClick={() => chat.send("Hello", "demo")}>Say hello</button>
 *         </>
 *       );
 *     }
 */

import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import type { ParleyClient } from "./client";
import { Conversation, type ConversationOptions } from "./conversation";
import { type ChatState, type Message, shown } from "./state";

export interface UseChatOptions extends Omit<ConversationOptions, "client" | "chatId"> {
  /** Keep it stable: another client is another user or server, so the chat begins anew. */
  client: ParleyClient;
  /** null for a chat that does not exist yet; its first question creates it (`onStarted` tells). */
  chatId: string | null;
}

export interface Chat extends Omit<ChatState, "messages"> {
  /** What to show, oldest first: a reply that was asked for anew is left out. */
  messages: readonly Message[];
  /** Whether a question may be sent now. */
  ready: boolean;
  send: (prompt: string, modelId: string) => Promise<void>;
  stop: () => Promise<void>;
  regenerate: (modelId: string) => Promise<void>;
  /** Does what helps against `problem`. */
  retry: (modelId: string) => Promise<void>;
  loadOlder: () => Promise<void>;
  dismiss: () => void;
  /** Call it once `handedBack` was put where it can be edited. */
  handBackTaken: () => void;
}

/** Loads a chat, attaches to a reply that is being produced, and offers what can be done with it. */
export function useChat({ client, chatId, ...options }: UseChatOptions): Chat {
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });

  const create = () =>
    new Conversation({
      ...options,
      client,
      chatId,
      onStarted: (started) => latest.current.onStarted?.(started),
      onSettled: (settled) => latest.current.onSettled?.(settled),
    });
  const [current, setCurrent] = useState(() => ({ client, chatId, conversation: create() }));
  let { conversation } = current;
  if (current.client !== client || current.chatId !== chatId) {
    // A new chat that has just learnt its id is still the same conversation.
    const same = current.client === client && conversation.getState().chatId === chatId;
    if (!same) conversation = create();
    setCurrent({ client, chatId, conversation });
  }

  useEffect(() => {
    void conversation.load();
    return () => conversation.dispose();
  }, [conversation]);

  const state = useSyncExternalStore(conversation.subscribe, conversation.getState, conversation.getState);
  return useMemo(
    () => ({
      ...state,
      messages: shown(state.messages),
      ready: state.reply === null && (state.history === "none" || state.history === "loaded"),
      send: (prompt, modelId) => conversation.send(prompt, modelId),
      stop: () => conversation.stop(),
      regenerate: (modelId) => conversation.regenerate(modelId),
      retry: (modelId) => conversation.retry(modelId),
      loadOlder: () => conversation.loadOlder(),
      dismiss: () => conversation.dismiss(),
      handBackTaken: () => conversation.handBackTaken(),
    }),
    [conversation, state],
  );
}
