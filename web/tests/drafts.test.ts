// @vitest-environment jsdom
import { beforeEach, describe, expect, it } from "vitest";
import { forgetDraft, keepDraft, keyOf, recallDraft } from "../src/ui/drafts";

beforeEach(() => localStorage.clear());

describe("a draft's key", () => {
  it("stays the same until the question is taken", () => {
    keepDraft(null, "Why?");
    const key = keyOf(null, "Why?", "demo");
    expect(key).toMatch(/^[0-9a-f]{32}$/);
    keepDraft(null, "Why?");
    expect(keyOf(null, "Why?", "demo")).toBe(key);
    forgetDraft(null, "Why?");
    expect(recallDraft(null)).toBe("");
    keepDraft(null, "Why?");
    expect(keyOf(null, "Why?", "demo")).not.toBe(key);
  });

  it.each([
    ["another text", () => keyOf(null, "Why not?", "demo")],
    ["another model", () => keyOf(null, "Why?", "other")],
    ["another chat", () => keyOf("c1", "Why?", "demo")],
  ])("is another one for %s", (_, other) => {
    keepDraft(null, "Why?");
    keepDraft("c1", "Why?");
    const key = keyOf(null, "Why?", "demo");
    expect(other()).not.toBe(key);
  });

  it("is another one once the draft was changed, also back again", () => {
    keepDraft(null, "Why?");
    const key = keyOf(null, "Why?", "demo");
    keepDraft(null, "Why? ");
    keepDraft(null, "Why?");
    expect(keyOf(null, "Why?", "demo")).not.toBe(key);
  });

  it("is new each time where nothing can be kept", () => {
    keepDraft(null, "What is kept");
    expect(keyOf(null, "What is not", "demo")).not.toBe(keyOf(null, "What is not", "demo"));
  });

  it("leaves what else is being written", () => {
    keepDraft(null, "Why?");
    keyOf(null, "Why?", "demo");
    keepDraft(null, "And then?");
    forgetDraft(null, "Why?");
    expect(recallDraft(null)).toBe("And then?");
  });
});
