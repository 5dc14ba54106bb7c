/** Which addresses a model may link to, and whether a link's text tells where it leads. */

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

/** Words with dots between them; some scripts have dots of their own, which a browser takes for dots too. */
const DOTTED = /[\p{L}\p{M}\p{N}-]+(?:[.\u3002\uFF0E\uFF61][\p{L}\p{M}\p{N}-]+)+/gu;
/** What ends in letters, and more than one: no version, and no "e.g.". */
const NAME = /\.[a-z][a-z0-9-]*[a-z0-9]$/;
const ADDRESS = /^\d+\.\d+\.\d+\.\d+$/;

/**
 * The host that a link leads to, where its text names another one, and null where it does not. A name
 * that is not in ASCII is shown as the browser asks for it, since its letters may only look like others.
 */
export function hiddenHost(text: string, url: string): string | null {
  const real = hostsOf(url);
  // Characters without a shape would hide a name from us, but not from the reader.
  const shown = text.replace(/\p{Cf}/gu, "");
  const strange = real.some((host) => /(?:^|\.)xn--/.test(host) && !shown.includes(host));
  const named = hostsIn(shown);
  return strange || named.some((host) => !real.includes(host)) ? real.join(", ") || "?" : null;
}

function hostsOf(url: string): string[] {
  const { protocol, hostname, pathname, search } = new URL(url);
  return protocol === "mailto:" ? hostsIn(decoded(pathname + search)) : [bare(hostname)];
}

function hostsIn(text: string): string[] {
  const hosts = new Set<string>();
  for (const [found] of text.matchAll(DOTTED)) {
    const host = normal(found);
    if (host !== null && (NAME.test(host) || ADDRESS.test(found))) hosts.add(bare(host));
  }
  return [...hosts];
}

function normal(host: string): string | null {
  try {
    return new URL(`http://${host}`).hostname;
  } catch {
    return null;
  }
}

function bare(host: string): string {
  return host.replace(/^www\./, "").replace(/\.$/, "");
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
