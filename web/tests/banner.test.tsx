// @vitest-environment jsdom
import { act, cleanup, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Failure, mayRetry, type Problem } from "../src/chat/state";
import { Banner } from "../src/ui/Banner";

function shown(about: Problem["about"], more: Partial<Failure> = {}) {
  const failure = { code: "provider_rate_limited", message: "It takes no more questions.", retryable: true, ...more };
  const onRetry = vi.fn();
  render(<Banner problem={{ about, failure }} onRetry={onRetry} onDismiss={() => {}} />);
  return onRetry;
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  cleanup();
  vi.useRealTimers();
});

describe("the banner", () => {
  it("counts down to when the provider said to come again, and offers no retry before", () => {
    const onRetry = shown("reply", { retryAfterMs: 17_000 });
    const button = screen.getByRole("button", { name: "Retry in 17 s" });
    const alert = screen.getByRole("alert");
    const said = alert.textContent;
    expect(said).toContain("It takes no more questions.");
    fireEvent.click(button);
    act(() => vi.advanceTimersByTime(16_000));
    expect(button.textContent).toBe("Retry in 1 s");
    expect(button.getAttribute("aria-disabled")).toBe("true");
    fireEvent.click(button);
    expect(onRetry).not.toHaveBeenCalled();
    act(() => vi.advanceTimersByTime(1000));
    expect(button.textContent).toBe("Retry");
    expect(alert.textContent, "the seconds are not read out").toBe(said);
    fireEvent.click(button);
    expect(onRetry).toHaveBeenCalledOnce();
  });

  it("offers no retry of a question that is too long", () => {
    shown("reply", { code: "context_too_long", message: "It is longer than the model takes.", retryable: false });
    expect(screen.getByRole("alert").textContent).toBe("The question is too longIt is longer than the model takes.");
    expect(screen.getAllByRole("button").map((button) => button.getAttribute("aria-label"))).toEqual(["Dismiss"]);
  });
});

it.each<[Problem["about"], string, boolean, boolean]>([
  ["send", "unavailable", true, true],
  ["send", "too_large", false, false],
  ["reply", "provider_overloaded", true, true],
  ["reply", "provider_auth", false, true],
  ["reply", "context_too_long", false, false],
])("a %s that failed with %s, retryable: %s, may be tried again: %s", (about, code, retryable, may) => {
  expect(mayRetry({ about, failure: { code, message: "", retryable } })).toBe(may);
});
