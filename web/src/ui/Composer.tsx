/** Where a question is written: Enter sends, Shift+Enter breaks the line, and a draft is kept. */

import { type KeyboardEvent, type ReactNode, type RefObject, useEffect, useLayoutEffect, useState } from "react";
import { keepDraft, recallDraft } from "./drafts";
import { Icon } from "./Icon";

interface ComposerProps {
  /** Names the draft. */
  chatId: string | null;
  input: RefObject<HTMLTextAreaElement | null>;
  /** Whether a question may be sent now. */
  ready: boolean;
  /** A reply is being produced; null where there is none. */
  live: { stopping: boolean } | null;
  handedBack: string | null;
  onHandBackTaken: () => void;
  onSend: (prompt: string) => void;
  onStop: () => void;
  /** What stands beside the button. */
  children: ReactNode;
}

export function Composer(props: ComposerProps): ReactNode {
  const { chatId, input, ready, live, handedBack, onHandBackTaken, onSend, onStop, children } = props;
  const [text, setText] = useState(() => recallDraft(chatId));
  const [hurried, setHurried] = useState(false);
  const sendable = ready && text.trim() !== "";

  const change = (next: string) => {
    setText(next);
    setHurried(false);
    keepDraft(chatId, next);
  };

  useEffect(() => {
    if (handedBack === null) return;
    setHurried(false);
    // What was typed since is not lost to what comes back, nor doubled where it is the draft of just that.
    setText((typed) => {
      const both = ["", handedBack.trim()].includes(typed.trim()) ? handedBack : `${handedBack}\n\n${typed}`;
      keepDraft(chatId, both);
      return both;
    });
    onHandBackTaken();
  }, [handedBack, chatId, onHandBackTaken]);

  // Grows with its text. Browsers that know `field-sizing` do so by themselves.
  useLayoutEffect(() => {
    const element = input.current;
    if (!element || CSS.supports("field-sizing", "content")) return;
    element.rows = Math.min(10, Math.max(1, text.split("\n").length));
  }, [text, input]);

  const send = () => {
    if (!sendable) return setHurried(live === null && text.trim() !== "");
    setHurried(false);
    // The stored draft stays until the question was taken: a page that is reloaded before keeps it.
    setText("");
    onSend(text);
  };

  // Who is faster than the page that is still loading need not press twice.
  useEffect(() => {
    if (hurried && sendable) send();
  });

  const pressed = (event: KeyboardEvent) => {
    // Enter that ends the composition of a character (Japanese, Chinese, …) is not ours.
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    send();
  };

  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <label className="hidden" htmlFor="prompt">
        Message
      </label>
      <textarea
        id="prompt"
        ref={input}
        rows={1}
        value={text}
        placeholder="Ask anything"
        aria-describedby="prompt-keys"
        enterKeyHint="send"
        autoComplete="off"
        onChange={(event) => change(event.target.value)}
        onKeyDown={pressed}
      />
      <div className="composer-row">
        {children}
        <span id="prompt-keys" className="keys">
          <kbd>Enter</kbd> sends, <kbd>Shift Enter</kbd> breaks the line
        </span>
        {live ? (
          <button type="button" className="round stop" onClick={() => live.stopping || onStop()} aria-disabled={live.stopping} aria-label="Stop">
            <Icon name="stop" />
          </button>
        ) : (
          // It stays focusable while there is nothing to send, so the focus is never dropped.
          <button type="submit" className="round" aria-disabled={!sendable} aria-label="Send">
            <Icon name="send" />
          </button>
        )}
      </div>
    </form>
  );
}
