/** The list of chats: loaded at once, again when something happened, and further down on demand. */

import { useCallback, useEffect, useRef, useState } from "react";
import type { ParleyClient } from "../chat/client";
import type { ChatSummary } from "../chat/wire";

export interface Chats {
  chats: readonly ChatSummary[] | null;
  failed: boolean;
  more: boolean;
  reload: () => void;
  loadMore: () => void;
}

const PAGE = 30;

export function useChats(client: ParleyClient): Chats {
  const [chats, setChats] = useState<readonly ChatSummary[] | null>(null);
  const [nextBefore, setNextBefore] = useState<string | null>(null);
  const [failed, setFailed] = useState(false);
  const latest = useRef(client);

  const load = useCallback(
    async (before: string | null) => {
      try {
        const page = await client.list(before === null ? { limit: PAGE } : { limit: PAGE, before });
        if (latest.current !== client) return;
        const ids = new Set(page.chats.map(({ chatId }) => chatId));
        setChats((known) => {
          const others = (known ?? []).filter(({ chatId }) => !ids.has(chatId));
          return before === null ? [...page.chats, ...others] : [...others, ...page.chats];
        });
        // A reload of the top does not forget how far down the list goes.
        setNextBefore((known) => (before === null && known !== null ? known : page.nextBefore));
        setFailed(false);
      } catch {
        if (latest.current === client) setFailed(true);
      }
    },
    [client],
  );

  useEffect(() => {
    latest.current = client;
    setChats(null);
    setNextBefore(null);
    void load(null);
    const shown = () => document.visibilityState === "visible" && void load(null);
    document.addEventListener("visibilitychange", shown);
    return () => document.removeEventListener("visibilitychange", shown);
  }, [client, load]);

  const reload = useCallback(() => void load(null), [load]);
  return { chats, failed, more: nextBefore !== null, reload, loadMore: () => void load(nextBefore) };
}
