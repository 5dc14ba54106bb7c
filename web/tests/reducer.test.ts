import { describe, expect, it } from "vitest";
import { reduce } from "../src/chat/reducer";
import { emptyChat } from "../src/chat/state";
import type { HistoryPage, WireMessage } from "../src/chat/wire";
import { wire } from "./messages";

function message(position: number): WireMessage {
  return wire({ id: `m${position}`, role: position % 2 === 1 ? "user" : "assistant" }, `Message ${position}`);
}

function page(first: number, last: number): HistoryPage {
  const messages = Array.from({ length: last - first + 1 }, (_, index) => message(first + index));
  const nextBefore = first > 1 ? String(first) : null;
  return { chatId: "c1", title: "A chat", messages, nextBefore, activeSessionId: null, revision: last, reset: false };
}

function loaded(...pages: HistoryPage[]) {
  return pages.reduce((state, page) => reduce(state, { type: "loaded", page }), emptyChat("c1"));
}

const positions = (state: ReturnType<typeof loaded>) => state.messages.map(({ position }) => position);

describe("a short page, whose messages are long", () => {
  it("goes behind what is known where it follows on it", () => {
    const state = loaded(page(1, 4), page(5, 6));
    expect(positions(state)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(state.nextBefore).toBeNull();
  });

  it("leaves no hole where messages lie between", () => {
    const state = loaded(page(1, 4), page(6, 6));
    expect(positions(state)).toEqual([6]);
    expect(state.nextBefore).toBe("6");
    const older = reduce(state, { type: "older loaded", page: page(1, 5) });
    expect(positions(older)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(older.nextBefore).toBeNull();
  });

  it("takes the place of what it repeats", () => {
    expect(positions(loaded(page(1, 6), page(6, 6)))).toEqual([1, 2, 3, 4, 5, 6]);
  });
});

describe("what changed since the last page", () => {
  const changes = (...messages: WireMessage[]): HistoryPage => ({ ...page(1, 0), messages, nextBefore: null, revision: 99 });
  const now = (state: ReturnType<typeof loaded>, ...messages: WireMessage[]) => reduce(state, { type: "changed", page: changes(...messages) });

  it("goes where it belongs, and keeps the keys of what is shown", () => {
    const state = loaded(page(1, 4));
    const next = now(state, message(6), { ...message(2), supersededBy: "m7" }, message(5), message(7));
    expect(positions(next)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(next.messages[1]).toMatchObject({ key: state.messages[1]?.key, supersededBy: "m7" });
    expect(next.messages[2]).toBe(state.messages[2]);
    expect(next.revision).toBe(99);
  });

  it("leaves out what lies above the first page, which comes when that is loaded", () => {
    const state = now(loaded(page(5, 6)), { ...message(2), supersededBy: "m3" }, message(7));
    expect(positions(state)).toEqual([5, 6, 7]);
    expect(state.nextBefore).toBe("5");
  });

  it("keeps a question on its way below what is new", () => {
    const at = "2026-01-01T00:00:00Z";
    const asked = reduce(loaded(page(1, 2)), { type: "asked", prompt: "And?", modelId: "demo", questionKey: "q", replyKey: "r", at });
    expect(now(asked, message(3), message(4)).messages.map(({ key }) => key)).toEqual(["m1", "m2", "m3", "m4", "q", "r"]);
    const done = reduce(asked, { type: "started", started: { sessionId: "s", chatId: "c1", messageId: "m3", replyId: "m4", expiresAt: at } });
    const pending = { ...message(4), status: "pending" as const };
    expect(now(done, message(3), pending).messages.map(({ key, position }) => [key, position])).toEqual([["m1", 1], ["m2", 2], ["q", 3], ["r", 4]]);
  });
});
