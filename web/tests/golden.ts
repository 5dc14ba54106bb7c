/** The streams that the Python tests decode too, with the events they hold. */

import { readdirSync, readFileSync } from "node:fs";
import type { Received } from "../src/chat/connection";
import type { ServerEvent } from "../src/chat/sse";
import { SseDecoder } from "../src/chat/sse";
import { parseFrame } from "../src/chat/wire";

// Vitest runs in web/; jsdom has a URL of its own, which node's file functions do not take.
const folder = "../tests/golden/";

export const names = readdirSync(folder)
  .filter((name) => name.endsWith(".sse"))
  .map((name) => name.slice(0, -4));

export const bytesOf = (name: string): Uint8Array => new Uint8Array(readFileSync(`${folder}${name}.sse`));
export const textOf = (name: string): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytesOf(name));
export const eventsOf = (name: string): ServerEvent[] =>
  JSON.parse(readFileSync(`${folder}${name}.json`, "utf8")) as ServerEvent[];

export function framesOf(name: string): Received[] {
  return new SseDecoder().feed(textOf(name)).flatMap((event) => {
    const frame = parseFrame(event.data);
    return frame ? [{ frame, cursor: event.lastEventId }] : [];
  });
}
