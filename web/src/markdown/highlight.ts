/** Colours for code: loaded when the first code is shown, and made of elements, not of HTML. */

import { createElement, type ReactNode, useSyncExternalStore } from "react";

type Highlighter = (code: string, language: string) => ReactNode;

let highlighter: Highlighter | null = null;
let loading = false;
const listeners = new Set<() => void>();

/** The highlighter, or null while it is on its way. */
export function useHighlighter(): Highlighter | null {
  return useSyncExternalStore(subscribe, () => highlighter, () => null);
}

/** Begins to load the highlighter. A page without it shows code without colours. */
export function loadHighlighter(): void {
  if (loading) return;
  loading = true;
  import("./languages").then(
    ({ lowlight }) => {
      highlighter = (code, language) => {
        const name = language.toLowerCase();
        if (!lowlight.registered(name)) return code;
        return elements(lowlight.highlight(name, code).children as Node[]);
      };
      for (const listener of listeners) listener();
    },
    () => {
      loading = false;
    },
  );
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  loadHighlighter();
  return () => listeners.delete(listener);
}

/** What lowlight's trees are made of. */
type Node = { type: "text"; value: string } | { type: "element"; properties: { className?: string[] }; children: Node[] };

function elements(nodes: Node[]): ReactNode[] {
  return nodes.map((node, index) => {
    if (node.type === "text") return node.value;
    const className = node.properties.className?.join(" ");
    return createElement("span", { key: index, className }, ...elements(node.children));
  });
}
