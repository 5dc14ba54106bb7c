/** The page: a side bar with the chats, and the chat that the address names. */

import { type ReactNode, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { ParleyClient } from "../chat/client";
import type { Started } from "../chat/wire";
import { authFor, type Config } from "../config";
import { SignedOut } from "./Banner";
import { ChatView } from "./ChatView";
import { Drawer } from "./Drawer";
import { Icon } from "./Icon";
import { useRemembered } from "./memory";
import { follow, goTo, pathOf, useChatId } from "./route";
import { Sidebar } from "./Sidebar";
import { useChats } from "./useChats";
import { useMedia } from "./useMedia";
import { useModels } from "./useModels";

export function App({ config }: { config: Config }): ReactNode {
  const users = config.auth.kind === "trusted" ? config.auth.users : null;
  const [remembered, setUser] = useRemembered("user", users?.[0] ?? "");
  const user = users === null || users.includes(remembered) ? remembered : (users[0] ?? "");
  const [signedOut, setSignedOut] = useState(false);
  const client = useMemo(() => {
    const onUnauthorized = () => setSignedOut(users === null);
    return new ParleyClient({ endpoints: config.endpoints, auth: authFor(config, user), onUnauthorized });
  }, [config, user, users]);
  const chatId = useChatId();
  const chats = useChats(client);
  const offered = useModels(client);
  const wide = useMedia("(min-width: 60rem)");
  const [drawn, setDrawn] = useState(false);
  const [title, setTitle] = useState("");

  const view = useView(chatId, client);
  const { reload } = chats;
  const onStarted = useCallback(
    (started: Started) => {
      view.adopt(started.chatId);
      goTo(started.chatId, { replace: true });
      reload();
    },
    [view, reload],
  );

  const listed = chats.chats?.find((chat) => chat.chatId === chatId)?.title;
  const name = chatId === null ? "New chat" : title || listed || "Chat";
  useEffect(() => {
    document.title = chatId === null ? "Parley" : `${name} · Parley`;
  }, [chatId, name]);

  const change = (next: string) => {
    setUser(next);
    goTo(null);
  };
  const sidebar = (
    <Sidebar chats={chats} chatId={chatId} users={users} user={user} onUser={change} onChosen={() => setDrawn(false)} />
  );
  return (
    <div className="app">
      <a className="skip" href="#prompt">
        Skip to the message
      </a>
      <header className="top">
        {wide ? null : (
          <button type="button" className="quiet" onClick={() => setDrawn(true)} aria-label="Open the list of chats" aria-expanded={drawn}>
            <Icon name="menu" />
          </button>
        )}
        <h1>{name}</h1>
        {wide || chatId === null ? null : (
          <a className="quiet" href={pathOf(null)} aria-label="New chat" onClick={(event) => follow(event, null)}>
            <Icon name="plus" />
          </a>
        )}
      </header>
      {wide ? sidebar : (
        <Drawer open={drawn} onClose={() => setDrawn(false)} label="Chats">
          {sidebar}
        </Drawer>
      )}
      <main className="main">
        <ChatView
          key={view.key}
          client={client}
          chatId={chatId}
          offered={offered}
          onStarted={onStarted}
          onSettled={reload}
          onTitle={setTitle}
          notice={signedOut ? <SignedOut /> : null}
        />
      </main>
    </div>
  );
}

/**
 * A key for the view of a chat: another chat is another view, with its own draft and focus. A new
 * chat that gets its address keeps its view; `adopt` says so just before the address changes.
 */
function useView(chatId: string | null, client: ParleyClient): { key: number; adopt: (chatId: string) => void } {
  const state = useRef({ key: 0, chatId, client, adopted: undefined as string | undefined });
  const now = state.current;
  if (now.chatId !== chatId || now.client !== client) {
    if (now.client !== client || now.adopted !== chatId) now.key += 1;
    state.current = { ...now, key: now.key, chatId, client, adopted: undefined };
  }
  const adopt = useCallback((adopted: string) => {
    state.current.adopted = adopted;
  }, []);
  return useMemo(() => ({ key: state.current.key, adopt }), [state.current.key, adopt]);
}
