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
  return { chatId: "c1", title: "A chat", messages, nextBefore, activeSessionId: null };
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
