import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Batches } from "../src/chat/batches";
import type { Received } from "../src/chat/connection";

let pictures: (() => void)[] = [];
const draw = () => pictures.splice(0).forEach((picture) => picture());

beforeEach(() => {
  vi.useFakeTimers();
  pictures = [];
  vi.stubGlobal("document", { visibilityState: "visible" });
  vi.stubGlobal("requestAnimationFrame", (picture: () => void) => pictures.push(picture));
  vi.stubGlobal("cancelAnimationFrame", () => (pictures = []));
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const token = (content: string): Received => ({ frame: { type: "token", content }, cursor: "" });
const typing: Received = { frame: { type: "typing" }, cursor: "" };
const textOf = (received: Received[]) => received.map(({ frame }) => (frame.type === "token" ? frame.content : "")).join("");

describe("batches", () => {
  it("deliver once per picture what came before it", () => {
    const delivered: string[] = [];
    const batches = new Batches((received) => delivered.push(textOf(received)));
    batches.add([token("a"), token("b")]);
    batches.add([token("c")]);
    expect(delivered).toEqual([]);
    draw();
    expect(delivered).toEqual(["abc"]);
    draw();
    expect(delivered).toEqual(["abc"]);
  });

  it("spread what came at once, in order, without tearing a character", async () => {
    const delivered: Received[][] = [];
    const batches = new Batches((received) => delivered.push(received));
    const text = "👩‍🚀 naïve ".repeat(4000);
    const done: Received = { frame: { type: "reset", reason: "test" }, cursor: "" };
    batches.add([typing, token("begin "), token(text), ...Array.from({ length: 2000 }, () => token("end ")), done]);
    let drained = false;
    void batches.drained().then(() => (drained = true));
    for (let picture = 0; picture < 500 && !drained; picture += 1) {
      draw();
      await Promise.resolve();
      await Promise.resolve();
    }
    expect(drained).toBe(true);
    const pieces = delivered.map(textOf);
    expect(pieces.join("")).toBe(`begin ${text}${"end ".repeat(2000)}`);
    for (const piece of pieces) expect(() => encodeURIComponent(piece), "no half of a pair").not.toThrow();
    expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThan(2000);
    expect(pieces.length).toBeLessThan(120);
    expect(delivered[0]?.[0]).toBe(typing);
    expect(delivered.at(-1)?.at(-1)).toBe(done);
  });

  it("do not wait for pictures that do not come, nor for those of a hidden page", () => {
    const delivered: string[] = [];
    const batches = new Batches((received) => delivered.push(textOf(received)));
    batches.add([token("x".repeat(50_000))]);
    vi.advanceTimersByTime(100);
    expect(delivered.map(({ length }) => length)).toEqual([834]);
    vi.stubGlobal("document", { visibilityState: "hidden" });
    vi.advanceTimersByTime(100);
    expect(delivered.join("")).toHaveLength(50_000);
  });

  it("deliver or drop all at once where that is asked for", async () => {
    const delivered: string[] = [];
    const batches = new Batches((received) => delivered.push(textOf(received)));
    batches.add([token("x".repeat(5000))]);
    batches.flush();
    expect(delivered.join("")).toHaveLength(5000);
    batches.add([token("gone")]);
    const drained = batches.drained();
    batches.clear();
    await drained;
    draw();
    vi.advanceTimersByTime(1000);
    expect(delivered).toHaveLength(1);
  });
});
