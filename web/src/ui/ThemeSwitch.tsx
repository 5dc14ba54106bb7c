/** Light, dark, or as the system has it. */

import { type ReactNode, useEffect } from "react";
import { Icon, type IconName } from "./Icon";
import { recall, useRemembered } from "./memory";

type Theme = "system" | "light" | "dark";

const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
const ICONS: Record<Theme, IconName> = { system: "screen", light: "sun", dark: "moon" };

/** Sets what was chosen before; call it before the first drawing. */
export function applyTheme(theme = recall("theme") ?? "system"): void {
  document.documentElement.dataset.theme = theme;
}

export function ThemeSwitch(): ReactNode {
  const [stored, setTheme] = useRemembered("theme", "system");
  const theme = stored in NEXT ? (stored as Theme) : "system";
  useEffect(() => applyTheme(theme), [theme]);
  return (
    <button type="button" className="quiet" onClick={() => setTheme(NEXT[theme])} aria-label={`Theme: ${theme}`} title={`Theme: ${theme}`}>
      <Icon name={ICONS[theme]} />
    </button>
  );
}
