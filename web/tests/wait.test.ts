import { expect, it } from "vitest";
import { waitOf } from "../src/ui/useCountdown";

it.each([
  [1, "1 s"],
  [99, "99 s"],
  [100, "2 min"],
  [3600, "60 min"],
  [6000, "2 h"],
  [86_400, "24 h"],
])("a wait of %i seconds is read as %s", (seconds, text) => {
  expect(waitOf(seconds)).toBe(text);
});
