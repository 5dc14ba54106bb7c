/** The two routes, `/chat` and `/chat/:chatId`. */

import { type MouseEvent, useSyncExternalStore } from "react";

const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  window.addEventListener("popstate", listener);
  return () => {
    listeners.delete(listener);
    window.removeEventListener("popstate", listener);
  };
}

/** The chat that the address names; null on `/chat`, and anywhere else. */
export function chatIdOf(path: string): string | null {
  return /^\/chat\/([A-Za-z0-9_-]{1,64})\/?$/.exec(path)?.[1] ?? null;
}

export const pathOf = (chatId: string | null): string => (chatId === null ? "/chat" : `/chat/${chatId}`);

export function useChatId(): string | null {
  return useSyncExternalStore(subscribe, () => chatIdOf(location.pathname));
}

/** Goes to a chat; `replace` where the address only learns its name, as a new chat's does. */
export function goTo(chatId: string | null, { replace = false } = {}): void {
  const path = pathOf(chatId);
  if (path === location.pathname) return;
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  for (const listener of listeners) listener();
}

/** Goes where a pressed link leads, unless it is to be opened elsewhere; tells whether it went. */
export function follow(event: MouseEvent, chatId: string | null): boolean {
  // Links stay links: another tab, another window.
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return false;
  event.preventDefault();
  goTo(chatId);
  return true;
}
