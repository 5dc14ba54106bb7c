/** Where the page begins. */

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { loadConfig, signInFirst } from "./config";
import { loadHighlighter } from "./markdown/highlight";
import "./styles/index.css";
import { App } from "./ui/App";
import { applyTheme } from "./ui/ThemeSwitch";

const root = document.getElementById("root") as HTMLElement;
applyTheme();
if (!location.pathname.startsWith("/chat")) history.replaceState(null, "", "/chat");

loadConfig().then(
  (config) => {
    const signIn = signInFirst(config);
    if (signIn !== null) return location.replace(signIn);
    createRoot(root).render(
      <StrictMode>
        <App config={config} />
      </StrictMode>,
    );
    // Before the first code comes, so that it does not change its colours in front of the reader.
    setTimeout(loadHighlighter, 1500);
  },
  () => {
    root.setAttribute("role", "alert");
    root.className = "fatal";
    root.textContent = "Parley cannot be reached right now. Reload the page to try again.";
  },
);
