import { describe, expect, it, vi } from "vitest";
import type { Received } from "../src/chat/connection";
import { type Connection, follow, type FollowEnd } from "../src/chat/follow";
import { bytesOf } from "./golden";
import { broken, FakeServer, FakeSignals, failure, sse } from "./server";

interface Reading {
  end: Promise<FollowEnd>;
  received: Received[];
  connections: Connection[];
  signals: FakeSignals;
  abort: () => void;
  text: () => string;
}

const GREETING = 'id: 1-0\ndata: {"type":"start"}\n\ndata: {"type":"typing"}\n\n';
const THINKING = 'data: {"type":"status","state":"thinking","elapsedMs":10000}\n\n';

function read(
  server: FakeServer,
  { attempts = 3, silenceMs = 1000, baseMs = 1, steadyMs = 10_000, aliveMs = Infinity } = {},
): Reading {
  const received: Received[] = [];
  const connections: Connection[] = [];
  const signals = new FakeSignals();
  const controller = new AbortController();
  const end = follow({
    urlFor: (cursor) => `/api/chat/stream?sessionId=s1${cursor === null ? "" : `&cursor=${cursor}`}`,
    fetch: server.fetch,
    signal: controller.signal,
    onFrames: (frames) => received.push(...frames),
    onConnection: (connection) => connections.push(connection),
    signals,
    backoff: { baseMs, maxMs: Math.max(50, baseMs) },
    attempts,
    silenceMs,
    steadyMs,
    aliveMs,
  });
  const text = () => received.map(({ frame }) => (frame.type === "token" ? frame.content : "")).join("");
  return { end, received, connections, signals, abort: () => controller.abort(), text };
}

const until = async (holds: () => boolean): Promise<void> => {
  for (let turn = 0; !holds(); turn += 1) {
    if (turn > 500) throw new Error("it never came to hold");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
};
const cursors = (server: FakeServer) => server.to("stream").map((one) => one.query.get("cursor"));

describe("following a stream", () => {
  it("ends with done", async () => {
    const reading = read(new FakeServer().on("stream", sse([bytesOf("reply")])));
    expect(await reading.end).toEqual({ how: "ended" });
    expect(reading.text()).toBe("Hello, world!");
  });

  it("reads bytes one by one, characters cut in half included", async () => {
    const pieces = Array.from(bytesOf("forged"), (byte) => Uint8Array.of(byte));
    const reading = read(new FakeServer().on("stream", sse(pieces)));
    expect(await reading.end).toEqual({ how: "ended" });
    expect(reading.text()).toContain("👩‍👩‍👧");
  });

  it("resumes a dropped stream from its last cursor", async () => {
    const server = new FakeServer().on("stream", sse([bytesOf("dropped")]), sse([bytesOf("resumed")]));
    const reading = read(server);
    expect(await reading.end).toEqual({ how: "ended" });
    expect(cursors(server)).toEqual([null, "1795391262123-5"]);
  });

  it.each([
    ["429", () => failure(429, "rate_limited", { retryable: true }, { "Retry-After": "0" })],
    ["502 with a page", () => new Response("<h1>Bad gateway</h1>", { status: 502 })],
    ["another content type", () => new Response("<html>", { headers: { "Content-Type": "text/html" } })],
    ["no connection", new TypeError("Failed to fetch")],
  ])("tries again after %s", async (_, answer) => {
    const reading = read(new FakeServer().on("stream", answer, sse([bytesOf("reply")])));
    expect(await reading.end).toEqual({ how: "ended" });
    expect(reading.connections.map(({ state }) => state)).toEqual(["connecting", "waiting", "connecting", "open"]);
  });

  it("waits as long as the server asks", async () => {
    const busy = failure(429, "rate_limited", { retryable: true }, { "Retry-After": "0.2" });
    const began = Date.now();
    await read(new FakeServer().on("stream", busy, sse([bytesOf("reply")]))).end;
    expect(Date.now() - began).toBeGreaterThanOrEqual(195);
  });

  it.each([
    [404, "not_found"],
    [410, "session_expired"],
    [401, "unauthorized"],
  ])("does not try again after %i", async (status, code) => {
    const server = new FakeServer().on("stream", failure(status, code));
    expect(await read(server).end).toMatchObject({ how: "gone", error: { status, code } });
    expect(server.asked).toHaveLength(1);
  });

  it("ends at 204", async () => {
    const server = new FakeServer().on("stream", new Response(null, { status: 204 }));
    expect(await read(server).end).toEqual({ how: "delivered" });
  });

  it("counts as lost after failing in a row, and comes back when the network does", async () => {
    const down = new TypeError("Failed to fetch");
    const server = new FakeServer().on("stream", down, down, down, sse([bytesOf("reply")]));
    const reading = read(server, { attempts: 3 });
    await until(() => reading.connections.at(-1)?.state === "lost");
    expect(server.asked).toHaveLength(3);
    reading.signals.give("online");
    expect(await reading.end).toEqual({ how: "ended" });
  });

  it("is not given up while the browser is offline", async () => {
    const down = new TypeError("Failed to fetch");
    const server = new FakeServer().on("stream", down, down, down, down, sse([bytesOf("reply")]));
    const reading = read(server, { attempts: 2 });
    reading.signals.isOnline = false;
    expect(await reading.end).toEqual({ how: "ended" });
    expect(reading.connections.some(({ state }) => state === "lost")).toBe(false);
  });

  it("replaces a connection that fell silent", async () => {
    const quiet = () => sse(['id: 1-2\ndata: {"type":"token","content":"He"}\n\n'], { open: true });
    const server = new FakeServer().on("stream", quiet, sse([bytesOf("reply")]));
    expect(await read(server, { silenceMs: 30 }).end).toEqual({ how: "ended" });
    expect(cursors(server)).toEqual([null, "1-2"]);
  });

  it("lets go when the page leaves, and resumes when it is shown", async () => {
    const server = new FakeServer().on("stream", () => sse([bytesOf("dropped")], { open: true }), sse([bytesOf("resumed")]));
    const reading = read(server);
    await until(() => reading.text() === "Hello");
    reading.signals.give("leave");
    await until(() => reading.connections.at(-1)?.state === "waiting");
    expect(server.asked).toHaveLength(1);
    reading.signals.give("shown");
    expect(await reading.end).toEqual({ how: "ended" });
    expect(reading.text()).toBe("Hello world!");
  });

  it("cuts a wait short when the page is shown", async () => {
    const server = new FakeServer().on("stream", new TypeError("Failed to fetch"), sse([bytesOf("reply")]));
    const reading = read(server, { baseMs: 60_000 });
    await until(() => reading.connections.at(-1)?.state === "waiting");
    reading.signals.give("shown");
    expect(await reading.end).toEqual({ how: "ended" });
  });

  it.each([
    ["longer each time after connections that are soon let go", Infinity, [4, 8, 16, 25, 25]],
    ["no longer after connections that held", 0, [4, 4, 4, 4, 4]],
  ])("waits %s, though they brought text", async (_, steadyMs, least) => {
    const piece = (at: number) => sse([`id: 1-${at}\ndata: {"type":"token","content":"x"}\n\n`]);
    const server = new FakeServer().on("stream", ...least.map((_, at) => piece(at + 1)), sse([bytesOf("reply")]));
    const timers = vi.spyOn(globalThis, "setTimeout");
    const reading = read(server, { baseMs: 8, steadyMs });
    expect(await reading.end).toEqual({ how: "ended" });
    const waits = timers.mock.calls.map(([, ms]) => ms ?? 0).filter((ms) => ms >= 4 && ms <= 50);
    timers.mockRestore();
    expect(waits).toHaveLength(least.length);
    waits.forEach((ms, at) => {
      expect(ms).toBeGreaterThanOrEqual(least[at] ?? 0);
      expect(ms).toBeLessThanOrEqual(2 * (least[at] ?? 0));
    });
    // Nothing failed, so nothing is given up.
    expect(reading.connections.some(({ state }) => state === "lost")).toBe(false);
  });

  it.each([
    ["ended", () => sse([GREETING, THINKING])],
    ["broken", () => broken([GREETING, THINKING])],
  ])("goes on where living connections to a silent model are %s again and again", async (_, letGo) => {
    const again = Array.from({ length: 12 }, () => letGo);
    const reading = read(new FakeServer().on("stream", ...again, sse([bytesOf("reply")])), { aliveMs: 0 });
    expect(await reading.end).toEqual({ how: "ended" });
    expect(reading.connections.some(({ state }) => state === "lost")).toBe(false);
  });

  it.each([
    ["greets and hangs up at once", () => sse([GREETING, THINKING]), { aliveMs: Infinity }],
    ["greets and breaks off at once", () => broken([GREETING, THINKING]), { aliveMs: Infinity }],
    ["greets and falls silent", () => sse([GREETING], { open: true }), { aliveMs: 0, silenceMs: 20 }],
    ["hangs up without a greeting", () => sse([": alive\n\n"]), { aliveMs: 0 }],
    ["refuses", () => failure(503, "unavailable", { retryable: true }), { aliveMs: 0 }],
  ])("gives up on a server that only %s", async (_, answer, options) => {
    const reading = read(new FakeServer().on("stream", answer), { attempts: 3, ...options });
    await until(() => reading.connections.at(-1)?.state === "lost");
    reading.abort();
    expect(await reading.end).toEqual({ how: "aborted" });
  });
});
