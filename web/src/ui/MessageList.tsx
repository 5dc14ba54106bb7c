/** The messages of a chat, in a scroller that follows the reply while the reader is at its end. */

import { Fragment, type ReactNode, type RefObject, useEffect, useLayoutEffect, useRef } from "react";
import { tooLong } from "../chat/state";
import type { Chat } from "../chat/useChat";
import type { OfferedModel } from "../chat/wire";
import { Icon } from "./Icon";
import { MessageItem } from "./MessageItem";
import type { Following } from "./useFollowing";

interface MessageListProps {
  chat: Chat;
  models: readonly OfferedModel[] | null;
  following: Following;
  scroller: RefObject<HTMLDivElement | null>;
  content: RefObject<HTMLDivElement | null>;
  onRegenerate: () => void;
  /** What stands in place of messages where there are none. */
  children: ReactNode;
}

export function MessageList(props: MessageListProps): ReactNode {
  const { chat, models, following, scroller, content, onRegenerate, children } = props;
  const { messages, reply, leftOut, nextBefore, loadingOlder } = chat;
  useKeptPlace(scroller, messages[0]?.key ?? null);
  const last = messages.at(-1);
  // Where a banner offers another try, that is the one way to it: it knows when it may be.
  const regenerable = chat.ready && chat.problem?.about !== "reply" && last?.role === "assistant" && !tooLong(last.failure);
  const titles = new Map((models ?? []).map(({ id, title }) => [id, title]));
  return (
    <div className="scroller" ref={scroller}>
      <div className="column" ref={content}>
        {nextBefore === null ? null : (
          <Earlier loading={loadingOlder} blocked={chat.problem !== null} scroller={scroller} onLoad={chat.loadOlder} />
        )}
        {messages.length === 0 ? (
          children
        ) : (
          <ol className="messages" aria-label="Messages">
            {messages.map((message) => (
              <Fragment key={message.key}>
                {leftOut !== null && message.id === leftOut.contextFrom ? <ContextMark messages={leftOut.messages} /> : null}
                <MessageItem
                  message={message}
                  modelTitle={message.modelId === null ? null : (titles.get(message.modelId) ?? message.modelId)}
                  live={message.key === reply?.key ? reply : null}
                  unsent={message.role === "user" && message.id === null && reply === null}
                  onRegenerate={regenerable && message === last ? onRegenerate : null}
                />
              </Fragment>
            ))}
          </ol>
        )}
      </div>
      {following.atEnd ? null : (
        <button type="button" className="to-end" onClick={() => following.toEnd("smooth")} aria-label="Go to the latest message">
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}

/** Where the context of the latest reply begins: what stands above was not sent. */
function ContextMark({ messages }: { messages: number }): ReactNode {
  return (
    <li className="context-mark">
      <span>
        {messages === 1 ? "The message above was" : `The ${messages.toLocaleString("en")} messages above were`} too much for the
        model, and not sent
      </span>
    </li>
  );
}

interface EarlierProps {
  loading: boolean;
  blocked: boolean;
  scroller: RefObject<HTMLDivElement | null>;
  onLoad: () => void;
}

/** Loads earlier messages when it comes into view, or is pressed. */
function Earlier({ loading, blocked, scroller, onLoad }: EarlierProps): ReactNode {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (blocked || loading || !button.current) return;
    const seen = new IntersectionObserver(([entry]) => entry?.isIntersecting && onLoad(), { root: scroller.current });
    seen.observe(button.current);
    return () => seen.disconnect();
  }, [blocked, loading, onLoad, scroller]);
  return (
    <button type="button" ref={button} className="quiet earlier" onClick={onLoad} aria-disabled={loading}>
      {loading ? "Loading earlier messages…" : "Earlier messages"}
    </button>
  );
}

/** Keeps what is read in its place when messages appear above it. */
function useKeptPlace(scroller: RefObject<HTMLDivElement | null>, firstKey: string | null): void {
  const shownFirst = useRef(firstKey);
  // Read while rendering, when the page still is as it was: what is out of sight has estimated heights
  // that change without an event, so nothing that was noted earlier would be true.
  const anchor = shownFirst.current === firstKey ? null : (scroller.current?.querySelector(".message") ?? null);
  const top = anchor?.getBoundingClientRect().top ?? 0;
  useLayoutEffect(() => {
    shownFirst.current = firstKey;
    if (scroller.current && anchor?.isConnected) scroller.current.scrollTop += anchor.getBoundingClientRect().top - top;
    // The place is that of the moment in which the first message changed.
  }, [firstKey]);
}
