import { describe, expect, it } from "vitest";
import { SseDecoder } from "../src/chat/sse";
import { parseFrame } from "../src/chat/wire";
import { eventsOf, names, textOf } from "./golden";

describe("the decoder", () => {
  it.each(names)("reads %s at once", (name) => {
    expect(new SseDecoder().feed(textOf(name))).toEqual(eventsOf(name));
  });

  it.each(names)("reads %s character by character", (name) => {
    const decoder = new SseDecoder();
    expect(textOf(name).split("").flatMap((piece) => decoder.feed(piece))).toEqual(eventsOf(name));
  });

  it.each(names)("reads %s cut in two anywhere", (name) => {
    const text = textOf(name);
    for (let at = 0; at <= text.length; at += 1) {
      const decoder = new SseDecoder();
      expect([...decoder.feed(text.slice(0, at)), ...decoder.feed(text.slice(at))]).toEqual(eventsOf(name));
    }
  });
});

describe("a frame", () => {
  it.each([
    "",
    "not json",
    "null",
    "7",
    "[]",
    "{}",
    '{"type":"later"}',
    '{"type":"token"}',
    '{"type":"token","content":7}',
    '{"type":"status"}',
    '{"type":"status","state":"later"}',
    '{"type":"status","state":"thinking"}',
    '{"type":"status","state":"thinking","elapsedMs":"7"}',
    '{"type":"status","state":"thinking","elapsedMs":1e999}',
  ])("is nothing where the data is %j", (data) => {
    expect(parseFrame(data)).toBeNull();
  });

  it.each(['{"type":"status","state":"retrying"}', '{"type":"status","state":"thinking","elapsedMs":12345}'])(
    "is what the data says where that is %j",
    (data) => {
      expect(parseFrame(data)).toEqual(JSON.parse(data));
    },
  );
});
