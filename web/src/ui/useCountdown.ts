/** Counts a wait down. */

import { useEffect, useState } from "react";

/** Whole seconds left of `ms`; they begin anew with another `subject`. */
export function useCountdown(ms: number, subject: unknown): number {
  const [seconds, setSeconds] = useState(Math.ceil(ms / 1000));
  useEffect(() => {
    const end = Date.now() + ms;
    const tick = () => {
      const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
      setSeconds(left);
      if (left === 0) clearInterval(timer);
    };
    const timer = setInterval(tick, 250);
    tick();
    return () => clearInterval(timer);
  }, [ms, subject]);
  return seconds;
}

/** A wait as it is read: `42 s`, `12 min`, `5 h`. */
export function waitOf(seconds: number): string {
  if (seconds < 100) return `${seconds} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${Math.ceil(minutes / 60)} h`;
}
