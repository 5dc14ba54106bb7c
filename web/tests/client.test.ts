import { describe, expect, it, vi } from "vitest";
import { ParleyClient } from "../src/chat/client";
import { FakeServer, failure, json } from "./server";

const models = () => json({ models: [{ id: "demo" }] });

describe("the client", () => {
  it("sends a token that it asks for each time, and no user", async () => {
    const server = new FakeServer().on("models", models()).on("stop", json({}, 202));
    const getToken = vi.fn().mockReturnValueOnce("one").mockResolvedValueOnce("two");
    const client = new ParleyClient({ auth: { kind: "bearer", getToken }, fetch: server.fetch });
    expect(await client.models()).toEqual([{ id: "demo" }]);
    await client.stop("s1");
    expect(server.asked.map(({ headers }) => headers.get("Authorization"))).toEqual(["Bearer one", "Bearer two"]);
    expect(server.asked[0]?.query.has("userId")).toBe(false);
    expect(server.asked[1]?.body).toEqual({ sessionId: "s1" });
  });

  it("tells that a token is refused, and does not try again", async () => {
    const server = new FakeServer().on("list", failure(401, "unauthorized"));
    const onUnauthorized = vi.fn();
    const client = new ParleyClient({ auth: { kind: "bearer", getToken: () => "old" }, fetch: server.fetch, onUnauthorized });
    await expect(client.list()).rejects.toMatchObject({ code: "unauthorized", status: 401, retryable: false });
    expect(onUnauthorized).toHaveBeenCalledOnce();
    expect(server.asked).toHaveLength(1);
  });

  it("waits out a short limit by itself, and hands a long one on with what it says", async () => {
    const short = failure(429, "rate_limited", { retryable: true }, { "Retry-After": "0" });
    expect(await new FakeServer().on("models", short, models()).client().models()).toHaveLength(1);
    const long = failure(429, "rate_limited", { retryable: true, limit: "tokensPerDay", remaining: 12 }, { "Retry-After": "3600" });
    const server = new FakeServer().on("models", long);
    const details = { status: 429, retryAfterMs: 3_600_000, limit: "tokensPerDay", remaining: 12 };
    await expect(server.client().models()).rejects.toMatchObject(details);
    expect(server.asked).toHaveLength(1);
  });

  it("takes a proxy's page for a failure that may pass", async () => {
    const page = new Response("<h1>Bad gateway</h1>", { status: 502, headers: { "Content-Type": "text/html" } });
    expect(await new FakeServer().on("models", page, models()).client().models()).toHaveLength(1);
    const nonsense = new FakeServer().on("models", new Response("<html>"));
    await expect(nonsense.client().models()).rejects.toMatchObject({ code: "bad_response" });
  });

  it("has an address for each function of a deployment that gives them", () => {
    const at = (name: string) => `https://${name}.example/chat/${name}`;
    const endpoints = { start: at("start"), stop: at("stop"), stream: at("stream"), history: at("history"), list: at("list"), models: at("models") };
    const client = new ParleyClient({ auth: { kind: "trusted", userId: "u" }, endpoints });
    expect(client.streamUrl("s1", "7-42")).toBe("https://stream.example/chat/stream?sessionId=s1&cursor=7-42");
  });
});
