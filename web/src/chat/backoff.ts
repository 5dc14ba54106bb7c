/** How long to wait between tries, and what cuts a wait short. */

export interface Backoff {
  /** The first wait, in milliseconds; each later one doubles. */
  baseMs: number;
  maxMs: number;
}

/**
 * The wait before try number `attempt` (1 for the first retry), in milliseconds: half of it fixed,
 * half random, so that clients which lost the same server do not come back together. A server's
 * Retry-After is the least.
 */
export function delay(attempt: number, { baseMs, maxMs }: Backoff, retryAfterMs = 0, random = Math.random): number {
  const full = Math.min(maxMs, baseMs * 2 ** (attempt - 1));
  return Math.max(retryAfterMs, full / 2 + (random() * full) / 2);
}

/** Resolves after `ms` (never, for Infinity), or as soon as `signal` aborts. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = ms === Infinity ? undefined : setTimeout(finish, ms);
    signal.addEventListener("abort", finish);
    function finish() {
      clearTimeout(timer);
      signal.removeEventListener("abort", finish);
      resolve();
    }
  });
}
