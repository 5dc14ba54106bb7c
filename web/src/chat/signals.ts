/** What a browser tells about its network and its page, reduced to what a stream needs to know. */

/**
 * `online`: the network came back, connections from before are not to be trusted.
 * `shown`: the page is looked at again, or came out of the back/forward cache.
 * `leave`: the page goes; one with an open connection is not kept in the back/forward cache.
 */
export type Signal = "online" | "shown" | "leave";

export interface Signals {
  online: () => boolean;
  /** Returns what ends the subscription. */
  on: (listener: (signal: Signal) => void) => () => void;
}

export const browserSignals: Signals = {
  online: () => typeof navigator === "undefined" || navigator.onLine !== false,
  on: (listener) => {
    if (typeof window === "undefined") return () => {};
    const heard: [EventTarget, string, () => void][] = [
      [window, "online", () => listener("online")],
      [window, "pageshow", () => listener("shown")],
      [window, "pagehide", () => listener("leave")],
      [document, "visibilitychange", () => document.visibilityState === "visible" && listener("shown")],
    ];
    for (const [target, name, heed] of heard) target.addEventListener(name, heed);
    return () => {
      for (const [target, name, heed] of heard) target.removeEventListener(name, heed);
    };
  },
};
