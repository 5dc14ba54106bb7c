// @vitest-environment jsdom
import { act, renderHook, waitFor } from "@testing-library/react";
import { StrictMode } from "react";
import { describe, expect, it, vi } from "vitest";
import { useChat } from "../src/chat/useChat";
import { bytesOf } from "./golden";
import { FakeServer, json, sse } from "./server";

const started = { sessionId: "s1", chatId: "c1", messageId: "m1", replyId: "m2", expiresAt: "" };
const empty = (chatId: string) => json({ chatId, title: chatId, messages: [], nextBefore: null, activeSessionId: null });

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
});
