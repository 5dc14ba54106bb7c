/** Counts the time up that something has taken so far. */

import { useEffect, useState } from "react";

/** Whole seconds since `since`, a time of `performance.now()`. */
export function useElapsed(since: number): number {
  const [seconds, setSeconds] = useState(() => secondsFrom(since));
  useEffect(() => {
    const tick = () => setSeconds(secondsFrom(since));
    const timer = setInterval(tick, 250);
    tick();
    return () => clearInterval(timer);
  }, [since]);
  return seconds;
}

function secondsFrom(since: number): number {
  return Math.max(0, Math.floor((performance.now() - since) / 1000));
}

/** A time as it is read: `42 s`, `1 min 5 s`. */
export function elapsedOf(seconds: number): string {
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
