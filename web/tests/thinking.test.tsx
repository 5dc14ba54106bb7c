// @vitest-environment jsdom
import { act, cleanup, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { asked, started } from "../src/chat/asking";
import { type Happening, reduce } from "../src/chat/reducer";
import { type ChatState, emptyChat } from "../src/chat/state";
import type { Chat } from "../src/chat/useChat";
import type { Frame } from "../src/chat/wire";
import { Announcer } from "../src/ui/Announcer";
import { MessageItem } from "../src/ui/MessageItem";
import { elapsedOf } from "../src/ui/useElapsed";

const taken = { sessionId: "s1", chatId: "c1", messageId: "m1", replyId: "m2", expiresAt: "" };
const question = { prompt: "Hello?", modelId: "demo", questionKey: "q", replyKey: "r", at: "" };
const waiting = (): ChatState => started(asked(emptyChat(null), question), taken);

/** The state once a frame came at a time of the page's clock, in milliseconds. */
const after = (state: ChatState, at: number, ...frames: Frame[]): ChatState =>
  reduce(state, { type: "received", received: frames.map((frame) => ({ frame, cursor: "" })), at });
const thinking = (elapsedMs: number): Frame => ({ type: "status", state: "thinking", elapsedMs });
const since = (state: ChatState) => state.reply?.thinkingSince;
const thought = (): ChatState => after(waiting(), 60_000, thinking(10_000));

describe("the time that a model thinks", () => {
  it("is unknown before the server tells it", () => {
    expect(since(after(waiting(), 5000, { type: "typing" }))).toBeNull();
  });

  it("is counted from when the model began, by the page's clock", () => {
    expect(since(thought())).toBe(50_000);
  });

  it("does not go back for a frame that was long on its way, or begins to count anew", () => {
    expect(since(after(thought(), 73_000, thinking(20_000)))).toBe(50_000);
    expect(since(after(thought(), 73_000, thinking(1000)))).toBe(50_000);
  });

  it("goes forward for a frame that knows of more, as after a sleep of the machine", () => {
    expect(since(after(thought(), 61_000, thinking(300_000)))).toBe(-239_000);
  });

  const token: Frame = { type: "token", content: "Hi" };
  const reset: Frame = { type: "reset", reason: "test" };
  it.each<[string, Happening]>([
    ["text", { type: "received", received: [{ frame: token, cursor: "1-2" }], at: 61_000 }],
    ["a reset", { type: "received", received: [{ frame: reset, cursor: "2-0" }], at: 61_000 }],
    ["another try", { type: "received", received: [{ frame: { type: "status", state: "retrying" }, cursor: "" }], at: 61_000 }],
    ["a dropped connection", { type: "connection", connection: { state: "waiting", attempt: 1, offline: false } }],
    ["another connection", { type: "connection", connection: { state: "connecting" } }],
  ])("is forgotten after %s", (_, happening) => {
    expect(since(reduce(thought(), happening))).toBeNull();
  });

  it("is counted anew after a reset, however it was before", () => {
    expect(since(after(after(thought(), 61_000, reset), 90_000, thinking(10_000)))).toBe(80_000);
  });

  it("is no matter where there is text", () => {
    expect(since(after(after(thought(), 61_000, token), 70_000, thinking(20_000)))).toBeNull();
  });

  it("takes the place of a note that the model is asked again", () => {
    const retrying = after(waiting(), 5000, { type: "status", state: "retrying" });
    expect(retrying.reply?.note).toBe("retrying");
    expect(after(retrying, 60_000, thinking(10_000)).reply).toMatchObject({ note: null, thinkingSince: 50_000 });
  });

  it.each([
    [0, "0 s"],
    [59, "59 s"],
    [60, "1 min 0 s"],
    [125, "2 min 5 s"],
  ])("of %i seconds is read as %s", (seconds, text) => {
    expect(elapsedOf(seconds)).toBe(text);
  });
});

describe("the page", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => {
    cleanup();
    vi.useRealTimers();
  });

  function view(state: ChatState) {
    const reply = state.messages.at(-1);
    if (!reply) throw new Error("there is no reply");
    return (
      <>
        <MessageItem message={reply} modelTitle="Demo" live={state.reply} onRegenerate={null} unsent={false} />
        <Announcer chat={state as Chat} />
      </>
    );
  }
  const pass = (ms: number) => act(() => vi.advanceTimersByTime(ms));
  const time = () => screen.queryByRole("timer")?.textContent ?? null;

  it("shows the seconds, counts them up, and never down", () => {
    let state = waiting();
    const { rerender, container } = render(view(state));
    expect(container.querySelector(".progress")?.textContent).toBe("Thinking");
    expect(time()).toBeNull();
    const show = (...frames: Frame[]) => {
      state = after(state, performance.now(), ...frames);
      rerender(view(state));
    };
    show(thinking(10_400));
    expect(container.querySelector(".progress")?.textContent).toBe("Thinking… 10 s");
    pass(750);
    expect(time()).toBe("11 s");
    pass(8750);
    expect(time()).toBe("19 s");
    show(thinking(17_000));
    expect(time()).toBe("19 s");
    pass(500);
    expect(time()).toBe("20 s");
    show(thinking(61_000));
    expect(time()).toBe("1 min 1 s");
    show({ type: "token", content: "Hi" });
    expect(time()).toBeNull();
    expect(container.querySelector(".progress")).toBeNull();
  });

  it.each<[string, Frame]>([
    ["done", { type: "done", finishReason: "stop", usage: null, messageId: "m2", saved: true }],
    ["an error", { type: "error", code: "internal", message: "It broke.", retryable: true, saved: true }],
  ])("shows no time after %s", (_, end) => {
    const state = after(waiting(), performance.now(), thinking(10_000));
    const { rerender, container } = render(view(state));
    expect(time()).toBe("10 s");
    rerender(view(after(state, performance.now(), end)));
    expect(time()).toBeNull();
    expect(container.querySelector(".progress")).toBeNull();
  });

  it("says once that the model thinks, and reads no seconds out", async () => {
    const state = waiting();
    const { rerender, container } = render(view(state));
    const status = screen.getByRole("status");
    const said: (string | null)[] = [];
    const heard = new MutationObserver(() => said.push(status.textContent));
    heard.observe(status, { childList: true, characterData: true, subtree: true });
    for (let elapsed = 10_000; elapsed <= 40_000; elapsed += 10_000) {
      rerender(view(after(state, performance.now(), thinking(elapsed))));
      await act(() => vi.advanceTimersByTimeAsync(10_000));
    }
    expect(time()).toBe("50 s");
    expect(said).toEqual(["The model is thinking."]);
    for (const region of container.querySelectorAll("[role=status], [role=alert], [aria-live]")) {
      expect(region.contains(screen.getByRole("timer"))).toBe(false);
    }
  });
});
