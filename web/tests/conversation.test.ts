import { describe, expect, it, vi } from "vitest";
import { Conversation } from "../src/chat/conversation";
import { type ChatState, shown } from "../src/chat/state";
import type { HistoryPage, WireMessage } from "../src/chat/wire";
import { bytesOf } from "./golden";
import { wire } from "./messages";
import { FakeServer, FakeSignals, failure, json, sse } from "./server";

const started = { sessionId: "s1", chatId: "c1", messageId: "m1", replyId: "m2", expiresAt: "2026-01-01T00:10:00Z" };

function page(messages: WireMessage[], more: Partial<HistoryPage> = {}): Response {
  return json({ chatId: "c1", title: "A chat", messages, nextBefore: null, activeSessionId: null, revision: 1, reset: false, ...more });
}

function open(server: FakeServer, chatId: string | null, more = {}): Conversation {
  const following = { signals: new FakeSignals(), backoff: { baseMs: 1, maxMs: 5 }, attempts: 2 };
  return new Conversation({ client: server.client(), chatId, following, ...more });
}

const settled = (conversation: Conversation, holds: (state: ChatState) => boolean): Promise<ChatState> =>
  vi.waitUntil(() => (holds(conversation.getState()) ? conversation.getState() : false), { interval: 2 });
const idle = (state: ChatState) => state.reply === null && state.history !== "loading";
const texts = (state: ChatState) => shown(state.messages).map(({ role, text }) => `${role}: ${text}`);

const question = wire({ id: "m1", role: "user" }, "Hello?");
const answer = wire({ id: "m2", role: "assistant", source: "provider", finishReason: "stop" }, "Hello!");

describe("sending", () => {
  it("shows the question at once and the reply as it comes", async () => {
    const server = new FakeServer().on("start", json(started, 201)).on("stream", sse([bytesOf("reply")]));
    const onStarted = vi.fn();
    const onSettled = vi.fn();
    const conversation = open(server, null, { onStarted, onSettled });
    void conversation.send("Hello?", "demo");
    expect(texts(conversation.getState())).toEqual(["user: Hello?", "assistant: "]);
    expect(conversation.getState().reply?.phase).toBe("sending");
    const state = await settled(conversation, idle);
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello, world!"]);
    expect(state.messages[1]).toMatchObject({ id: "m2", status: "complete", source: "provider", usage: { totalTokens: 17 } });
    expect(state.chatId).toBe("c1");
    expect(onStarted).toHaveBeenCalledWith(started);
    expect(onSettled).toHaveBeenCalledWith("c1");
    expect(server.to("start")[0]?.body).toEqual({ prompt: "Hello?", modelId: "demo", userId: "demo-free" });
  });

  it("repeats a lost answer with the same key", async () => {
    const server = new FakeServer()
      .on("start", new TypeError("Failed to fetch"), json(started, 201))
      .on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, null);
    await conversation.send("Hello?", "demo");
    const keys = server.to("start").map((one) => one.headers.get("Idempotency-Key"));
    expect(keys).toHaveLength(2);
    expect(keys[0]).toBe(keys[1]);
    expect(keys[0]).toMatch(/^[0-9a-f]{32}$/);
  });

  it("keeps a question that could not be sent, and retries it with the same key", async () => {
    const away = failure(503, "unavailable", { retryable: true }, { "Retry-After": "60" });
    const server = new FakeServer().on("start", away, json(started, 201)).on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, null);
    await conversation.send("Hello?", "demo");
    expect(conversation.getState().problem).toMatchObject({ about: "send", failure: { code: "unavailable" } });
    expect(texts(conversation.getState())).toEqual(["user: Hello?"]);
    await conversation.retry("demo");
    const state = await settled(conversation, idle);
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello, world!"]);
    expect(state.problem).toBeNull();
    const keys = server.to("start").map((one) => one.headers.get("Idempotency-Key"));
    expect(new Set(keys).size).toBe(1);
  });

  it("hands a question back whose banner is put away without another try", async () => {
    const limited = failure(429, "rate_limited", { retryable: true, limit: "requests", remaining: { requests: 0, streams: 3, tokens: null } }, { "Retry-After": "60" });
    const conversation = open(new FakeServer().on("start", limited), null);
    await conversation.send("One too many", "demo");
    expect(conversation.getState().problem).toMatchObject({ failure: { code: "rate_limited", retryAfterMs: 60_000 } });
    expect(conversation.getState().handedBack).toBeNull();
    conversation.dismiss();
    expect(conversation.getState()).toMatchObject({ messages: [], handedBack: "One too many", problem: null });
  });

  it("keeps a chat as it is where another problem is put away", async () => {
    const server = new FakeServer().on("start", json(started, 201)).on("stream", sse([bytesOf("failed")]));
    const conversation = open(server, null);
    void conversation.send("Hello?", "demo");
    const { messages } = await settled(conversation, (state) => state.problem !== null);
    conversation.dismiss();
    expect(conversation.getState()).toMatchObject({ messages, handedBack: null, problem: null });
  });

  it("hands a refused question back", async () => {
    const server = new FakeServer().on("start", failure(413, "too_large"));
    const conversation = open(server, null);
    await conversation.send("Too long", "demo");
    expect(conversation.getState()).toMatchObject({ messages: [], handedBack: "Too long", reply: null });
  });

  it("attaches to the session of a busy chat and hands the question back", async () => {
    const pending = wire({ id: "m2", role: "assistant", status: "pending" });
    const server = new FakeServer()
      .on("history", page([question, answer]), page([question, pending], { activeSessionId: "s9" }))
      .on("start", failure(409, "chat_busy", { activeSessionId: "s9" }))
      .on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.send("Me too", "demo");
    const state = await settled(conversation, (now) => now.messages[1]?.text === "Hello, world!" && idle(now));
    expect(state.handedBack).toBe("Me too");
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello, world!"]);
    expect(server.to("stream")[0]?.query.get("sessionId")).toBe("s9");
  });
});

describe("a reply", () => {
  async function replied(...streams: Response[]): Promise<ChatState> {
    const server = new FakeServer().on("start", json(started, 201)).on("stream", ...streams);
    const conversation = open(server, null);
    void conversation.send("Hello?", "demo");
    return settled(conversation, idle);
  }

  it("begins anew after a reset", async () => {
    expect(texts(await replied(sse([bytesOf("reset")])))[1]).toBe("assistant: Whole.");
  });

  it("is not doubled by a resume", async () => {
    expect(texts(await replied(sse([bytesOf("dropped")]), sse([bytesOf("resumed")])))[1]).toBe("assistant: Hello world!");
  });

  it("keeps where it came from when it is resumed", async () => {
    const state = await replied(sse([bytesOf("dropped")]), sse([bytesOf("resumed")]));
    expect(state.messages[1]?.source).toBe("provider");
  });

  it("tells that it was stopped, or could not be saved", async () => {
    expect((await replied(sse([bytesOf("stopped")]))).messages[1]).toMatchObject({ status: "stopped", text: "Half" });
    expect((await replied(sse([bytesOf("unsaved")]))).messages[1]).toMatchObject({ status: "complete", saved: false });
  });

  it("fails with a problem that can be retried", async () => {
    const state = await replied(sse([bytesOf("failed")]));
    expect(state.messages[1]).toMatchObject({ status: "failed", failure: { code: "provider_unavailable" } });
    expect(state.problem).toMatchObject({ about: "reply", failure: { retryable: true, retryAfterMs: 4000 } });
  });

  it("hands its question back where that is too long, for the server has it and would refuse it again", async () => {
    const error = { type: "error", code: "context_too_long", message: "It is too long.", retryable: false, saved: true };
    const state = await replied(sse([`data: ${JSON.stringify(error)}\n\n`]));
    expect(texts(state)).toEqual(["user: Hello?", "assistant: "]);
    expect(state.messages[1]).toMatchObject({ status: "failed", failure: { code: "context_too_long" } });
    expect(state.problem).toMatchObject({ about: "reply", failure: { message: "It is too long." } });
    expect(state.handedBack).toBe("Hello?");
  });

  it("that is thought about tells since when, by the page's clock, until its connection drops", async () => {
    const clock = vi.spyOn(performance, "now").mockReturnValue(60_000);
    const head = 'data: {"type":"typing"}\n\ndata: {"type":"status","state":"thinking","elapsedMs":12000}\n\n';
    let drop = () => {};
    const stream = () => {
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(new TextEncoder().encode(head));
          drop = () => controller.close();
        },
      });
      return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
    };
    const server = new FakeServer().on("start", json(started, 201)).on("stream", stream, () => sse([], { open: true }));
    const conversation = open(server, null);
    void conversation.send("Hello?", "demo");
    const state = await settled(conversation, (now) => (now.reply?.thinkingSince ?? null) !== null);
    expect(state.reply?.thinkingSince).toBe(48_000);
    drop();
    await settled(conversation, ({ reply }) => server.to("stream").length === 2 && reply?.connection === "open");
    expect(conversation.getState().reply?.thinkingSince).toBeNull();
    conversation.dispose();
    clock.mockRestore();
  });

  it("is looked up in the history once its stream says that all was delivered", async () => {
    const server = new FakeServer()
      .on("start", json(started, 201))
      .on("stream", sse([bytesOf("dropped")]), new Response(null, { status: 204 }))
      .on("history", page([question, answer]));
    const conversation = open(server, null);
    void conversation.send("Hello?", "demo");
    const state = await settled(conversation, (now) => now.messages[1]?.status === "complete");
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello!"]);
  });

  it("is no problem where its session has expired and its reply is there", async () => {
    const expired = failure(410, "session_expired");
    for (const [reply, problem] of [
      [answer, null],
      [{ ...answer, status: "stopped", finishReason: "stopped" }, null],
      [wire({ id: "m2", role: "assistant", status: "failed", errorCode: "session_expired" }), { about: "reply" }],
    ] as const) {
      const server = new FakeServer().on("start", json(started, 201)).on("stream", expired).on("history", page([question, reply]));
      const conversation = open(server, null);
      void conversation.send("Hello?", "demo");
      const state = await settled(conversation, (now) => idle(now) && now.messages.at(-1)?.status === reply.status);
      if (problem === null) expect(state.problem).toBeNull();
      else expect(state.problem).toMatchObject(problem);
    }
  });

  it("offers a reload when the connection is lost, and a retry follows the same session", async () => {
    const down = new TypeError("Failed to fetch");
    const server = new FakeServer()
      .on("start", json(started, 201))
      .on("stream", sse([bytesOf("dropped")]), down, down, sse([bytesOf("reply")]));
    const conversation = open(server, null);
    void conversation.send("Hello?", "demo");
    const lost = await settled(conversation, (now) => now.problem !== null);
    expect(lost).toMatchObject({ problem: { about: "connection" }, reply: { connection: "lost" } });
    await conversation.retry("demo");
    const state = await settled(conversation, idle);
    expect(texts(state)[1]).toBe("assistant: Hello, world!");
    expect(state.problem).toBeNull();
  });
});

describe("history", () => {
  it("is loaded with the reply that is being produced", async () => {
    const pending = wire({ id: "m2", role: "assistant", status: "pending" });
    const server = new FakeServer()
      .on("history", page([question, pending], { activeSessionId: "s1" }))
      .on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, "c1");
    await conversation.load();
    expect(conversation.getState().reply?.sessionId).toBe("s1");
    expect(texts(await settled(conversation, idle))).toEqual(["user: Hello?", "assistant: Hello, world!"]);
    expect(server.to("history")[0]?.query.get("userId")).toBe("demo-free");
  });

  it("grows backwards, without doubles", async () => {
    const older = [wire({ id: "m1", role: "user" }, "One"), wire({ id: "m2", role: "assistant" }, "Two")];
    const newer = [wire({ id: "m3", role: "user" }, "Three")];
    const server = new FakeServer().on("history", page(newer, { nextBefore: "m3" }), page([...older, ...newer]));
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.loadOlder();
    expect(conversation.getState().messages.map(({ text }) => text)).toEqual(["One", "Two", "Three"]);
    expect(server.to("history")[1]?.query.get("before")).toBe("m3");
  });

  it("tells a chat that is not there from one that cannot be loaded", async () => {
    const missing = open(new FakeServer().on("history", failure(404, "not_found")), "c1");
    await missing.load();
    expect(missing.getState().history).toBe("missing");
    const away = new FakeServer().on("history", failure(500, "internal"), page([question]));
    const failing = open(away, "c1");
    await failing.load();
    expect(failing.getState()).toMatchObject({ history: "failed", problem: { about: "load" } });
    await failing.retry("demo");
    expect(failing.getState()).toMatchObject({ history: "loaded", problem: null });
  });
});

describe("regenerating", () => {
  it("replaces the last reply, and brings it back when the server refuses", async () => {
    const server = new FakeServer()
      .on("history", page([question, answer]))
      .on("start", failure(429, "rate_limited"), json({ ...started, replyId: "m3" }, 201))
      .on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.regenerate("demo");
    expect(texts(conversation.getState())).toEqual(["user: Hello?", "assistant: Hello!"]);
    await conversation.regenerate("demo");
    const state = await settled(conversation, idle);
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello, world!"]);
    expect(state.messages.find(({ id }) => id === "m2")?.supersededBy).toBe("m3");
    expect(server.to("start")[1]?.body).toEqual({ modelId: "demo", chatId: "c1", replaces: "m2", userId: "demo-free" });
  });
});

describe("a chat that went on elsewhere", () => {
  const other = wire({ id: "m3", role: "user" }, "TWO?");
  const two = wire({ id: "m4", role: "assistant", replyTo: "m3" }, "2");
  const moved = () => failure(409, "chat_moved", { messages: [answer, other, two], revision: 5 });

  it("is asked after the message that is shown last", async () => {
    const server = new FakeServer()
      .on("history", page([question, answer]))
      .on("start", json({ ...started, messageId: "m3", replyId: "m4" }, 201))
      .on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.send("And?", "demo");
    await settled(conversation, idle);
    await conversation.send("And then?", "demo");
    expect(server.to("start").map(({ body }) => body?.parentId)).toEqual(["m2", "m4"]);
  });

  it("shows what is new, and hands the question back", async () => {
    const server = new FakeServer()
      .on("history", page([question, answer], { revision: 3 }), page([other, two], { revision: 5 }))
      .on("start", moved());
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.send("THREE?", "demo");
    const state = conversation.getState();
    expect(server.to("history")[1]?.query.get("since")).toBe("3");
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello!", "user: TWO?", "assistant: 2"]);
    expect(state).toMatchObject({ handedBack: "THREE?", revision: 5, reply: null, problem: { about: "send", failure: { code: "chat_moved" } } });
    await conversation.send("THREE?", "demo");
    expect(server.to("start")[1]?.body).toMatchObject({ prompt: "THREE?", parentId: "m4" });
  });

  it("keeps the reply that was to be replaced, and shows what is new", async () => {
    const server = new FakeServer()
      .on("history", page([question, answer], { revision: 3 }), page([other, two], { revision: 5 }))
      .on("start", moved());
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.regenerate("demo");
    const state = conversation.getState();
    expect(server.to("start")[0]?.body).toMatchObject({ replaces: "m2" });
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello!", "user: TWO?", "assistant: 2"]);
    expect(state).toMatchObject({ handedBack: null, problem: { failure: { code: "chat_moved" } } });
  });

  it("is shown when the page is looked at again, and attached to while it is answered", async () => {
    const pending = wire({ id: "m4", role: "assistant", status: "pending", replyTo: "m3" });
    const server = new FakeServer()
      .on("history", page([question, answer]), page([]), page([other, pending], { revision: 4, activeSessionId: "s2" }))
      .on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, "c1");
    await conversation.refresh();
    expect(server.to("history")).toHaveLength(0);
    await conversation.load();
    await conversation.refresh();
    expect(texts(conversation.getState())).toEqual(["user: Hello?", "assistant: Hello!"]);
    await Promise.all([conversation.refresh(), conversation.refresh()]);
    expect(server.to("history").map(({ query }) => query.get("since"))).toEqual([null, "1", "1"]);
    const state = await settled(conversation, idle);
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello!", "user: TWO?", "assistant: Hello, world!"]);
  });

  it("stays as it is shown where it cannot be looked for", async () => {
    const server = new FakeServer().on("history", page([question, answer]), failure(404, "not_found"), new TypeError("away"));
    const conversation = open(server, "c1");
    await conversation.load();
    const before = conversation.getState();
    await conversation.refresh();
    await conversation.refresh();
    expect(conversation.getState()).toEqual(before);
  });

  it("replaces by the newest page where too much is new", async () => {
    const server = new FakeServer()
      .on("history", page([question, answer], { revision: 3 }), page([other, two], { revision: 500, reset: true, nextBefore: "3" }))
      .on("start", moved());
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.send("THREE?", "demo");
    expect(texts(conversation.getState())).toEqual(["user: Hello?", "assistant: Hello!", "user: TWO?", "assistant: 2"]);
    expect(conversation.getState().revision).toBe(500);
  });

  it("attaches to the reply that is written there", async () => {
    const pending = wire({ id: "m4", role: "assistant", status: "pending", replyTo: "m3" });
    const server = new FakeServer()
      .on("history", page([question, answer]), page([other, pending], { revision: 4, activeSessionId: "s2" }))
      .on("start", failure(409, "chat_busy", { activeSessionId: "s2" }))
      .on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.send("THREE?", "demo");
    const state = await settled(conversation, idle);
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello!", "user: TWO?", "assistant: Hello, world!"]);
    expect(state.handedBack).toBe("THREE?");
  });
});

describe("what the model's context leaves out", () => {
  const bytes = (...frames: object[]) =>
    new TextEncoder().encode(frames.map((frame) => `id: 1-0\ndata: ${JSON.stringify(frame)}\n\n`).join(""));
  const start = { type: "start", sessionId: "s1", chatId: "c1", messageId: "m4", modelId: "demo", source: "provider" };
  const done = { type: "done", finishReason: "stop", usage: null, messageId: "m4", saved: true };

  it("is told with the reply, and forgotten with the next question", async () => {
    const server = new FakeServer()
      .on("history", page([question, answer]))
      .on("start", json({ ...started, messageId: "m3", replyId: "m4" }, 201))
      .on(
        "stream",
        sse([bytes({ ...start, leftOut: 2, contextFrom: "m3" }, { type: "token", content: "Hi" }, done)]),
        sse([bytes(start, { type: "status", state: "shortened", leftOut: 4, contextFrom: "m5" }, { type: "token", content: "Hi" }, done)]),
        sse([bytes(start, { type: "status", state: "shortened" }, { type: "token", content: "Hi" }, done)]),
      );
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.send("And?", "demo");
    expect((await settled(conversation, idle)).leftOut).toEqual({ messages: 2, contextFrom: "m3" });
    await conversation.send("And then?", "demo");
    expect((await settled(conversation, idle)).leftOut).toEqual({ messages: 4, contextFrom: "m5" });
    await conversation.send("And then?", "demo");
    expect((await settled(conversation, idle)).leftOut).toBeNull();
  });
});

describe("a reply that was asked for anew", () => {
  const ends = {
    failed: { frame: { type: "error", code: "provider_overloaded", message: "Busy.", retryable: true, saved: true }, text: "" },
    "failed half way": { frame: { type: "error", code: "interrupted", message: "Gone.", retryable: true, saved: true }, text: "Ha" },
    "stopped before its text": { frame: { type: "done", finishReason: "stopped", usage: null, messageId: "m3", saved: true }, text: "" },
    filtered: { frame: { type: "done", finishReason: "content_filter", usage: null, messageId: "m3", saved: true }, text: "No." },
  };

  it.each(Object.entries(ends))("leaves the good one where it %s, and stands beside it", async (_, { frame, text }) => {
    const token = text === "" ? "" : `id: 1-${text.length}\ndata: ${JSON.stringify({ type: "token", content: text })}\n\n`;
    const server = new FakeServer()
      .on("history", page([question, answer]))
      .on("start", json({ ...started, replyId: "m3" }, 201))
      .on("stream", sse([new TextEncoder().encode(`${token}id: 1-end\ndata: ${JSON.stringify(frame)}\n\n`)]));
    const conversation = open(server, "c1");
    await conversation.load();
    await conversation.regenerate("demo");
    expect(texts(conversation.getState())).toEqual(["user: Hello?", "assistant: "]);
    const state = await settled(conversation, idle);
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello!", `assistant: ${text}`]);
  });

  it("takes the place of all others once it answers, also of one that this page never hid", async () => {
    const failed = wire({ id: "m3", role: "assistant", status: "failed", errorCode: "interrupted" });
    const pending = wire({ id: "m4", role: "assistant", status: "pending" });
    const server = new FakeServer()
      .on("history", page([question, answer, failed, pending], { activeSessionId: "s1" }))
      .on("stream", sse([bytesOf("reply")]));
    const conversation = open(server, "c1");
    await conversation.load();
    const state = await settled(conversation, idle);
    expect(texts(state)).toEqual(["user: Hello?", "assistant: Hello, world!"]);
  });
});

describe("stopping", () => {
  it("asks the server and waits for the end to come over the stream", async () => {
    let finish: (() => void) | undefined;
    const stream = () => {
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          const [head, tail] = new TextDecoder().decode(bytesOf("stopped")).split(/(?=data: {"type":"done")/);
          controller.enqueue(new TextEncoder().encode(head));
          finish = () => controller.enqueue(new TextEncoder().encode(tail));
        },
      });
      return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
    };
    const server = new FakeServer().on("start", json(started, 201)).on("stream", stream).on("stop", json({}, 202));
    const conversation = open(server, null);
    void conversation.send("Hello?", "demo");
    await settled(conversation, (now) => now.messages[1]?.text === "Half");
    await conversation.stop();
    expect(conversation.getState().reply?.stopping).toBe(true);
    expect(server.to("stop")[0]?.body).toEqual({ sessionId: "s1", userId: "demo-free" });
    finish?.();
    expect((await settled(conversation, idle)).messages[1]?.status).toBe("stopped");
  });

  it("may be asked for before the server has named the session", async () => {
    const server = new FakeServer()
      .on("start", json(started, 201))
      .on("stream", () => sse([], { open: true }))
      .on("stop", json({}, 202));
    const conversation = open(server, null);
    void conversation.send("Hello?", "demo");
    await conversation.stop();
    expect(server.to("stop")).toHaveLength(0);
    await vi.waitUntil(() => server.to("stop").length === 1, { interval: 2 });
    conversation.dispose();
  });
});
