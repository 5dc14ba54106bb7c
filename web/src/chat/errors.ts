/** What can go wrong, as one error type: the server's own words, or what the network did instead. */

interface Details {
  status?: number;
  retryable?: boolean;
  retryAfterMs?: number | undefined;
  field?: string | undefined;
  activeSessionId?: string | undefined;
  limit?: number | string | undefined;
  remaining?: number | undefined;
}

/**
 * A request that did not succeed. `code` is the server's (`chat_busy`, `rate_limited`, …), or
 * `network` (no answer), `timeout`, or `bad_response` (an answer that is not Parley's).
 */
export class ApiError extends Error {
  readonly code: string;
  readonly status: number;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly field: string | undefined;
  readonly activeSessionId: string | undefined;
  /** With `rate_limited`: which limit was reached, and what is left of it. */
  readonly limit: number | string | undefined;
  readonly remaining: number | undefined;

  constructor(code: string, message: string, details: Details = {}) {
    super(message);
    this.name = "ApiError";
    this.code = code;
    this.status = details.status ?? 0;
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs;
    this.field = details.field;
    this.activeSessionId = details.activeSessionId;
    this.limit = details.limit;
    this.remaining = details.remaining;
  }
}

/** Statuses a proxy or an overloaded server answers with, worth another try whatever the body. */
const TRANSIENT = new Set([408, 425, 429, 500, 502, 503, 504]);

/** Reads a response that is not a success. */
export async function errorOf(response: Response): Promise<ApiError> {
  const retryAfterMs = retryAfter(response.headers.get("Retry-After"));
  const status = response.status;
  const body = await response.text().catch(() => "");
  const error = readBody(body);
  if (error) {
    return new ApiError(error.code, error.message, {
      status,
      retryable: error.retryable === true,
      retryAfterMs,
      field: error.field,
      activeSessionId: error.activeSessionId,
      limit: error.limit,
      remaining: error.remaining,
    });
  }
  return new ApiError("bad_response", `The server answered ${status}.`, {
    status,
    retryable: TRANSIENT.has(status),
    retryAfterMs,
  });
}

interface Body {
  code: string;
  message: string;
  retryable?: boolean;
  field?: string;
  activeSessionId?: string;
  limit?: number | string;
  remaining?: number;
}

function readBody(text: string): Body | null {
  try {
    const error = (JSON.parse(text) as { error?: Partial<Body> } | null)?.error;
    if (typeof error?.code === "string" && typeof error.message === "string") return error as Body;
  } catch {
    // Not JSON: some proxy's page.
  }
  return null;
}

/** Milliseconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3). */
export function retryAfter(value: string | null, now = Date.now()): number | undefined {
  if (value === null) return undefined;
  if (/^\s*\d+(\.\d+)?\s*$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/** Turns whatever was thrown by fetch into an `ApiError`; an abort by the caller stays as it is. */
export function networkError(thrown: unknown, signal?: AbortSignal): unknown {
  if (thrown instanceof ApiError || signal?.aborted) return thrown;
  const timeout = thrown instanceof DOMException && thrown.name === "TimeoutError";
  return timeout
    ? new ApiError("timeout", "The server took too long to answer.", { retryable: true })
    : new ApiError("network", "The server cannot be reached.", { retryable: true });
}
