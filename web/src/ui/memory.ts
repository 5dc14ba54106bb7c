/** What the browser remembers between visits. Storage may be full or forbidden; then it forgets. */

import { useState } from "react";

export function recall(name: string): string | null {
  try {
    return localStorage.getItem(`parley.${name}`);
  } catch {
    return null;
  }
}

export function remember(name: string, value: string | null): void {
  try {
    if (value === null || value === "") localStorage.removeItem(`parley.${name}`);
    else localStorage.setItem(`parley.${name}`, value);
  } catch {
    // The page works all the same.
  }
}

/** A state that is remembered. */
export function useRemembered(name: string, initial: string): [string, (value: string) => void] {
  const [value, setValue] = useState(() => recall(name) ?? initial);
  return [
    value,
    (next) => {
      remember(name, next);
      setValue(next);
    },
  ];
}
