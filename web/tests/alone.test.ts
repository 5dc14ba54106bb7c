import { readdirSync, readFileSync } from "node:fs";
import { expect, it } from "vitest";

const folder = "src/chat/";
const imported = (name: string) =>
  Array.from(readFileSync(folder + name, "utf8").matchAll(/\bfrom "([^"]+)"/g), ([, path = ""]) => path);

it.each(readdirSync(folder))("%s needs nothing of this application, and React only for the hook", (name) => {
  const foreign = imported(name).filter((path) => !path.startsWith("./"));
  expect(foreign).toEqual(name === "useChat.ts" ? ["react"] : []);
});
