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
import { browserSignals } from "./signals";
import { type ChatState, type Message, shown } from "./state";

export interface UseChatOptions extends Omit<ConversationOptions, "client" | "chatId"> {
  /** Keep it stable: another client is another user or server, so the chat begins anew. */
  client: ParleyClient;
  /** null for a chat that does not exist yet; its first question creates it (`onStarted` tells). */
  chatId: string | null;
}

export interface Chat extends Omit<ChatState, "messages">, Actions {
  /** What to show, oldest first: a reply that was asked for anew is left out. */
  messages: readonly Message[];
  /** Whether a question may be sent now. */
  ready: boolean;
}

/** What can be done. The functions stay the same for as long as the chat does, and none of them throws. */
export interface Actions {
  /** Shows the question at once, and its reply as it comes. The same `key` asks the same question once. */
  send: (prompt: string, modelId: string, key?: string) => Promise<void>;
  /** Ends the reply; what was written is kept. */
  stop: () => Promise<void>;
  /** Asks the last question again; the new reply takes the place of the last. */
  regenerate: (modelId: string) => Promise<void>;
  /** Does what helps against `problem`. */
  retry: (modelId: string) => Promise<void>;
  /** Loads the page before the first message; `nextBefore` is null where there is none. */
  loadOlder: () => Promise<void>;
  /** Puts `problem` away; a question that was not taken is handed back. */
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
    const signals = latest.current.following?.signals ?? browserSignals;
    const unsubscribe = signals.on((signal) => {
      if (signal !== "leave") void conversation.refresh();
    });
    return () => {
      unsubscribe();
      conversation.dispose();
    };
  }, [conversation]);

  const state = useSyncExternalStore(conversation.subscribe, conversation.getState, conversation.getState);
  const actions = useMemo(() => actionsOf(conversation), [conversation]);
  return useMemo(
    () => ({
      ...state,
      ...actions,
      messages: shown(state.messages),
      ready: state.reply === null && (state.history === "none" || state.history === "loaded"),
    }),
    [actions, state],
  );
}

function actionsOf(conversation: Conversation): Actions {
  return {
    send: (prompt, modelId, key) => conversation.send(prompt, modelId, key),
    stop: () => conversation.stop(),
    regenerate: (modelId) => conversation.regenerate(modelId),
    retry: (modelId) => conversation.retry(modelId),
    loadOlder: () => conversation.loadOlder(),
    dismiss: () => conversation.dismiss(),
    handBackTaken: () => conversation.handBackTaken(),
  };
}
