/** One chat: its messages, what went wrong, and where the next question is written. */

import { type ReactNode, useCallback, useEffect, useRef } from "react";
import type { ParleyClient } from "../chat/client";
import { useChat } from "../chat/useChat";
import type { Started } from "../chat/wire";
import { Announcer } from "./Announcer";
import { Banner } from "./Banner";
import { Composer } from "./Composer";
import { forgetDraft, keyOf } from "./drafts";
import { MessageList } from "./MessageList";
import { ModelSelect } from "./ModelSelect";
import { goTo } from "./route";
import { useFollowing } from "./useFollowing";
import { type Models, rememberModel, useChosenModel } from "./useModels";
import { Welcome } from "./Welcome";

interface ChatViewProps {
  client: ParleyClient;
  chatId: string | null;
  offered: Models;
  onStarted: (started: Started) => void;
  onSettled: () => void;
  onTitle: (title: string) => void;
  /** What concerns more than this chat, and goes before its own problems. */
  notice: ReactNode;
}

export function ChatView({ client, chatId, offered, onStarted, onSettled, onTitle, notice }: ChatViewProps): ReactNode {
  const input = useRef<HTMLTextAreaElement>(null);
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const asked = useRef({ prompt: "", model: "" });
  const following = useFollowing(scroller, content);
  const chat = useChat({
    client,
    chatId,
    onStarted: (started) => {
      rememberModel(started.chatId, asked.current.model);
      forgetDraft(chatId, asked.current.prompt);
      onStarted(started);
    },
    onSettled,
  });
  const lastUsed = chat.messages.findLast(({ role, modelId }) => role === "assistant" && modelId !== null)?.modelId ?? null;
  const [model, choose] = useChosenModel(chatId, lastUsed, offered.models);
  const ready = chat.ready && model !== null;

  useEffect(() => onTitle(chat.title), [chat.title, onTitle]);
  const focus = useCallback(() => {
    // On a touch screen the focus would bring up the keyboard, over what is to be read.
    if (matchMedia("(hover: hover)").matches) input.current?.focus();
  }, []);
  useEffect(focus, [focus]);

  const { toEnd } = following;
  const { send, regenerate, retry, stop } = chat;
  const ask = useCallback(
    (prompt: string) => {
      if (model === null) return;
      asked.current = { prompt, model };
      toEnd();
      focus();
      void send(prompt, model, keyOf(chatId, prompt, model));
    },
    [chatId, model, send, toEnd, focus],
  );
  const again = useCallback(() => {
    if (model === null) return;
    toEnd();
    focus();
    void regenerate(model);
  }, [model, regenerate, toEnd, focus]);
  const halt = useCallback(() => {
    focus();
    void stop();
  }, [stop, focus]);

  if (chat.history === "missing") return <Missing />;
  const live = chat.reply === null ? null : { stopping: chat.reply.stopping };
  return (
    <>
      <MessageList
        chat={chat}
        models={offered.models}
        following={following}
        scroller={scroller}
        content={content}
        onRegenerate={again}
      >
        {chat.history === "none" ? <Welcome onAsk={ask} ready={ready} /> : null}
        {chat.history === "loading" ? <Loading /> : null}
      </MessageList>
      <div className="dock">
        {notice ??
          (chat.problem ? (
            <Banner problem={chat.problem} onRetry={() => void retry(model ?? "")} onDismiss={chat.dismiss} />
          ) : null)}
        <Composer
          chatId={chatId}
          input={input}
          ready={ready}
          live={live}
          handedBack={chat.handedBack}
          onHandBackTaken={chat.handBackTaken}
          onSend={ask}
          onStop={halt}
        >
          <ModelSelect offered={offered} chosen={model} onChoose={choose} />
        </Composer>
      </div>
      <Announcer chat={chat} />
    </>
  );
}

function Loading(): ReactNode {
  return (
    <div className="loading" role="status">
      <span className="hidden">Loading the chat</span>
      <i />
      <i />
      <i />
    </div>
  );
}

function Missing(): ReactNode {
  return (
    <div className="scroller">
      <div className="column">
        <section className="welcome">
          <div>
            <h2>There is no such chat here</h2>
            <p>It may have been removed, or it belongs to somebody else.</p>
          </div>
          {/* In the place of the message, to which whoever uses the keyboard skips. */}
          <button id="prompt" type="button" className="button primary" onClick={() => goTo(null)}>
            Start a new chat
          </button>
        </section>
      </div>
    </div>
  );
}
