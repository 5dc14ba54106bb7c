/** Copies a text, and says that it did. */

import { type ReactNode, useEffect, useState } from "react";
import { Icon } from "./Icon";

export function CopyButton({ text, label }: { text: string; label: string }): ReactNode {
  const [outcome, setOutcome] = useState<"copied" | "failed" | null>(null);

  useEffect(() => {
    if (outcome === null) return;
    const timer = setTimeout(() => setOutcome(null), 2000);
    return () => clearTimeout(timer);
  }, [outcome]);

  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setOutcome("copied");
    } catch {
      setOutcome("failed");
    }
  };
  const said = outcome === "copied" ? "Copied" : outcome === "failed" ? "Copying is not allowed" : label;
  return (
    <button type="button" className="quiet" onClick={() => void copy()} title={label}>
      <Icon name={outcome === "copied" ? "check" : "copy"} />
      <span aria-live="polite">{said}</span>
    </button>
  );
}
