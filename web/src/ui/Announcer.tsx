/** Tells a screen reader what happens, politely: that a reply begins, that it takes time, and the whole of it at its end. */

import { type ReactNode, useEffect, useRef, useState } from "react";
import type { Chat } from "../chat/useChat";

/** A longer reply is announced by its beginning; the rest is read in the list of messages. */
const SPOKEN = 600;

const ENDS: Record<string, string> = {
  complete: "The reply is complete.",
  stopped: "The reply was stopped.",
  truncated: "The reply was cut short.",
  filtered: "The reply was ended by a content filter.",
  failed: "The reply failed.",
};

export function Announcer({ chat }: { chat: Chat }): ReactNode {
  const [said, setSaid] = useState("");
  const before = useRef<string | null>(null);
  const key = chat.reply?.key ?? null;
  const connection = chat.reply?.connection;
  const thinking = (chat.reply?.thinkingSince ?? null) !== null;

  useEffect(() => {
    const ended = before.current;
    before.current = key;
    if (key !== null) return setSaid("The reply is being written.");
    if (ended === null) return;
    const message = chat.messages.find((one) => one.key === ended);
    if (!message) return;
    const beginning = message.text.length > SPOKEN ? `${message.text.slice(0, SPOKEN)}…` : message.text;
    setSaid(`${ENDS[message.status] ?? ""} ${beginning}`);
    // Only the beginning and the end of a reply speak, never the tokens between them.
  }, [key]);

  useEffect(() => {
    if (connection === "waiting") setSaid("Reconnecting.");
  }, [connection]);

  useEffect(() => {
    if (thinking) setSaid("The model is thinking.");
  }, [thinking]);

  return (
    <div className="hidden" role="status">
      {said}
    </div>
  );
}
