// @vitest-environment jsdom
import { act, renderHook, waitFor } from "@testing-library/react";
import { StrictMode } from "react";
import { describe, expect, it, vi } from "vitest";
import { useChat } from "../src/chat/useChat";
import { bytesOf } from "./golden";
import { FakeServer, json, sse } from "./server";

const started = { sessionId: "s1", chatId: "c1", messageId: "m1", replyId: "m2", expiresAt: "" };
const empty = (chatId: string) => json({ chatId, title: chatId, messages: [], nextBefore: null, activeSessionId: null, revision: 1, reset: false });

describe("useChat", () => {
  it("stays with a new chat that is given its id", async () => {
    const server = new FakeServer().on("start", json(started, 201)).on("stream", sse([bytesOf("reply")]));
    const client = server.client();
    const onStarted = vi.fn();
    const { result, rerender } = renderHook(({ chatId }: { chatId: string | null }) => useChat({ client, chatId, onStarted }), {
      initialProps: { chatId: null as string | null },
      wrapper: StrictMode,
    });
    expect(result.current.ready).toBe(true);
    act(() => void result.current.send("Hello?", "demo"));
    expect(result.current.messages.map(({ role }) => role)).toEqual(["user", "assistant"]);
    expect(result.current.ready).toBe(false);
    await waitFor(() => expect(onStarted).toHaveBeenCalledOnce());
    const keys = result.current.messages.map(({ key }) => key);
    rerender({ chatId: "c1" });
    await waitFor(() => expect(result.current.messages[1]?.text).toBe("Hello, world!"));
    expect(result.current.messages.map(({ key }) => key)).toEqual(keys);
    expect(server.to("history")).toHaveLength(0);
  });

  it("begins anew for another chat, and for a new one", async () => {
    const server = new FakeServer().on("history", () => empty("c1"));
    const client = server.client();
    const { result, rerender } = renderHook(({ chatId }: { chatId: string | null }) => useChat({ client, chatId }), {
      initialProps: { chatId: "c1" as string | null },
    });
    expect(result.current.history).toBe("loading");
    await waitFor(() => expect(result.current.history).toBe("loaded"));
    rerender({ chatId: null });
    expect(result.current).toMatchObject({ chatId: null, history: "none", messages: [] });
    rerender({ chatId: "c2" });
    expect(result.current).toMatchObject({ chatId: "c2", history: "loading" });
    await waitFor(() => expect(server.to("history").map(({ query }) => query.get("chatId"))).toEqual(["c1", "c2"]));
  });

  it("attaches to a reply that is being written, in functions that stay the same", async () => {
    let more: ((text: string) => void) | undefined;
    const stream = () => {
      const body = new ReadableStream<Uint8Array>({
        start: (controller) => (more = (text) => controller.enqueue(new TextEncoder().encode(text))),
      });
      return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
    };
    const server = new FakeServer()
      .on("history", json({ chatId: "c1", title: "", messages: [], nextBefore: null, activeSessionId: "s9", revision: 1, reset: false }))
      .on("stream", stream)
      .on("stop", json({}, 202));
    const client = server.client();
    const onSettled = vi.fn();
    const { result } = renderHook(() => useChat({ client, chatId: "c1", onSettled }));
    await waitFor(() => expect(result.current.reply?.sessionId).toBe("s9"));
    const { send, stop, regenerate, retry, loadOlder, dismiss, handBackTaken } = result.current;
    await waitFor(() => expect(more).toBeDefined());
    act(() => more?.('id: 1-4\ndata: {"type":"token","content":"Half"}\n\n'));
    await waitFor(() => expect(result.current.messages.at(-1)?.text).toBe("Half"));
    expect(result.current).toMatchObject({ send, stop, regenerate, retry, loadOlder, dismiss, handBackTaken });
    await act(stop);
    expect(result.current.reply?.stopping).toBe(true);
    act(() => more?.('data: {"type":"done","finishReason":"stopped","usage":null,"messageId":"m2","saved":true}\n\n'));
    await waitFor(() => expect(result.current.reply).toBeNull());
    expect(result.current.messages.at(-1)).toMatchObject({ status: "stopped", text: "Half" });
    expect(result.current.ready).toBe(true);
    expect(onSettled).toHaveBeenCalledWith("c1");
    expect(server.to("stop")[0]?.body).toMatchObject({ sessionId: "s9" });
  });

  it("asks again in place of the last reply, and helps itself out of a problem", async () => {
    const server = new FakeServer()
      .on("start", json(started, 201), json({ ...started, sessionId: "s2", replyId: "m3" }, 201))
      .on("stream", sse([bytesOf("failed")]), sse([bytesOf("reply")]));
    const client = server.client();
    const { result } = renderHook(() => useChat({ client, chatId: null }));
    await act(() => result.current.send("Hello?", "demo"));
    await waitFor(() => expect(result.current.problem?.about).toBe("reply"));
    await act(() => result.current.retry("demo"));
    await waitFor(() => expect(result.current.messages.at(-1)).toMatchObject({ status: "complete", text: "Hello, world!" }));
    expect(result.current.messages.map(({ role }) => role)).toEqual(["user", "assistant"]);
    expect(result.current.problem).toBeNull();
    expect(server.to("start")[1]?.body).toMatchObject({ chatId: "c1", replaces: "m2" });
    const keys = server.to("start").map(({ headers }) => headers.get("Idempotency-Key"));
    expect(new Set(keys).size).toBe(2);
  });
});
