/** The list of chats, a way to begin one, and what concerns the person rather than a chat. */

import type { MouseEvent, ReactNode } from "react";
import type { ChatSummary } from "../chat/wire";
import { ageOf } from "./age";
import { Icon } from "./Icon";
import { follow, pathOf } from "./route";
import { ThemeSwitch } from "./ThemeSwitch";
import type { Chats } from "./useChats";

interface SidebarProps {
  chats: Chats;
  chatId: string | null;
  /** Demo users to choose from; null where a token tells who it is. */
  users: readonly string[] | null;
  user: string;
  onUser: (user: string) => void;
  /** Called after a chat was chosen, for a side bar that covers the page. */
  onChosen: () => void;
}

export function Sidebar({ chats, chatId, users, user, onUser, onChosen }: SidebarProps): ReactNode {
  const open = (event: MouseEvent, id: string | null) => {
    if (follow(event, id)) onChosen();
  };
  return (
    <nav className="sidebar" aria-label="Chats">
      <p className="wordmark">
        <img src="/favicon.svg" alt="" width="22" height="22" />
        Parley
      </p>
      <a className="button new" href={pathOf(null)} onClick={(event) => open(event, null)}>
        <Icon name="plus" />
        New chat
      </a>
      <div className="chats">
        {chats.chats === null && !chats.failed ? <p className="note">Loading chats…</p> : null}
        {chats.failed ? (
          <button type="button" className="quiet" onClick={chats.reload}>
            Chats could not be loaded. Try again
          </button>
        ) : null}
        {chats.chats?.length === 0 ? <p className="note">Your chats will be listed here.</p> : null}
        {groups(chats.chats ?? []).map(({ age, members }) => (
          <section key={age}>
            <h2>{age}</h2>
            <ul>
              {members.map((chat) => (
                <li key={chat.chatId}>
                  <a
                    href={pathOf(chat.chatId)}
                    aria-current={chat.chatId === chatId ? "page" : undefined}
                    onClick={(event) => open(event, chat.chatId)}
                  >
                    <span className="chat-title">{chat.title || "Untitled"}</span>
                    {chat.activeSessionId === null ? null : (
                      <span className="busy">
                        <span className="hidden">, being answered</span>
                      </span>
                    )}
                  </a>
                </li>
              ))}
            </ul>
          </section>
        ))}
        {chats.more ? (
          <button type="button" className="quiet" onClick={chats.loadMore}>
            Older chats
          </button>
        ) : null}
      </div>
      <div className="sidebar-foot">
        {users ? (
          <label>
            <span className="hidden">Demo user</span>
            <select className="choice" value={user} onChange={(event) => onUser(event.target.value)}>
              {users.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        ) : (
          <span />
        )}
        <ThemeSwitch />
      </div>
    </nav>
  );
}

function groups(chats: readonly ChatSummary[]): { age: string; members: ChatSummary[] }[] {
  const found: { age: string; members: ChatSummary[] }[] = [];
  for (const chat of chats) {
    const age = ageOf(chat.updatedAt);
    const last = found.at(-1);
    if (last?.age === age) last.members.push(chat);
    else found.push({ age, members: [chat] });
  }
  return found;
}
