/** One message: a question as it was typed, or a reply as Markdown with what is known about it. */

import { memo, type ReactNode } from "react";
import { type LiveReply, type Message, tooLong } from "../chat/state";
import { Markdown } from "../markdown/Markdown";
import { CopyButton } from "./CopyButton";
import { Icon } from "./Icon";
import { elapsedOf, useElapsed } from "./useElapsed";

interface MessageItemProps {
  message: Message;
  modelTitle: string | null;
  /** The reply's progress, while this message is being written. */
  live: LiveReply | null;
  /** Null where the reply cannot be asked for anew, which is everywhere but at the end. */
  onRegenerate: (() => void) | null;
  /** The server has not taken this question. */
  unsent: boolean;
}

export const MessageItem = memo(function MessageItem(props: MessageItemProps): ReactNode {
  const { message } = props;
  const label = message.role === "user" ? "You" : (props.modelTitle ?? "Assistant");
  return (
    <li className={`message ${message.role}`} data-status={message.status} data-live={props.live !== null || undefined}>
      <article aria-label={label}>
        {message.role === "user" ? <Question {...props} /> : <Reply {...props} title={label} />}
      </article>
    </li>
  );
});

function Question({ message, unsent }: MessageItemProps): ReactNode {
  return (
    <>
      <h2 className="hidden">You</h2>
      <div className="bubble">{message.text}</div>
      {unsent ? <p className="unsent">Not sent</p> : null}
    </>
  );
}

function Reply({ message, live, title, onRegenerate }: MessageItemProps & { title: string }): ReactNode {
  const growing = live !== null;
  const empty = message.text === "";
  return (
    <>
      <h2 className="speaker">{title}</h2>
      {empty ? null : (
        <div className="prose">
          <Markdown text={message.text} growing={growing} />
        </div>
      )}
      {live ? <Progress live={live} empty={empty} /> : null}
      {live ? null : <Ending message={message} />}
      {live ? null : (
        <footer className="about">
          {empty ? null : <CopyButton text={message.text} label="Copy" />}
          {onRegenerate ? (
            <button type="button" className="quiet" onClick={onRegenerate}>
              <Icon name="again" />
              <span>Regenerate</span>
            </button>
          ) : null}
          <Facts message={message} />
        </footer>
      )}
    </>
  );
}

function Progress({ live, empty }: { live: LiveReply; empty: boolean }): ReactNode {
  const text = progressOf(live);
  if (!empty && text === null) return null;
  return (
    <p className="progress">
      <span className="dots" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      {text ?? (live.thinkingSince === null ? <span className="hidden">Thinking</span> : <Thinking since={live.thinkingSince} />)}
    </p>
  );
}

/** A timer is there to be read, and not read out whenever it changes. */
function Thinking({ since }: { since: number }): ReactNode {
  return (
    <span>
      Thinking… <span role="timer">{elapsedOf(useElapsed(since))}</span>
    </span>
  );
}

function progressOf({ connection, offline, stopping, note }: LiveReply): string | null {
  if (connection === "lost") return "Not connected";
  if (connection === "waiting") return offline ? "You are offline. It goes on once you are back." : "Reconnecting…";
  if (stopping) return "Stopping…";
  if (note === "retrying") return "The model is busy. Trying again…";
  if (note === "fallback") return "Asking another model…";
  return null;
}

const ENDINGS: Partial<Record<Message["status"], string>> = {
  pending: "This reply is not here yet.",
  failed: "Did not finish",
  stopped: "Stopped",
  truncated: "Cut short",
  filtered: "Ended by the provider’s content filter",
};

function Ending({ message }: { message: Message }): ReactNode {
  const text = endingOf(message);
  return text === undefined ? null : <p className="ending">{text}</p>;
}

function endingOf({ status, finishReason, failure }: Message): string | undefined {
  if (tooLong(failure)) return "The question is too long";
  return finishReason === "length" ? "Cut off at the length limit" : ENDINGS[status];
}

function Facts({ message }: { message: Message }): ReactNode {
  const { source, usage, saved } = message;
  return (
    <span className="facts">
      {source === "cache" ? (
        <span className="from-cache" title="This exact question was answered before">
          <Icon name="bolt" />
          From cache
        </span>
      ) : null}
      {source === "provider" ? <span>From the model</span> : null}
      {source === "joined" ? <span title="Somebody asked the same at the same time">Shared answer</span> : null}
      {usage ? (
        <span title={`${usage.inputTokens} in, ${usage.outputTokens} out`}>{usage.totalTokens.toLocaleString("en")} tokens</span>
      ) : null}
      {saved ? null : <span>Not saved yet</span>}
    </span>
  );
}
