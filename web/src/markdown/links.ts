/** Which addresses a model may link to. */

const ALLOWED = new Set(["http:", "https:", "mailto:"]);

/**
 * The address to link to, or null. Only absolute addresses: a relative one would lead into this
 * application, at a place of the model's choosing.
 */
export function safeUrl(address: string): string | null {
  try {
    const url = new URL(address);
    return ALLOWED.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}
