/** The build, the development server with its way to the API, and the unit tests. */

import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

const api = process.env.PARLEY_API ?? "http://127.0.0.1:8000";

export default defineConfig({
  plugins: [react()],
  build: {
    target: "es2022",
    // A data: URL would be an exception in the Content-Security-Policy for nothing.
    assetsInlineLimit: 0,
    // The polyfill is an inline script to the policy's eyes, and every target has module preload.
    modulePreload: { polyfill: false },
  },
  server: { port: 5173, proxy: { "/api": { target: api, changeOrigin: true } } },
  // The machine may be busy with others' tests.
  test: { include: ["tests/**/*.test.{ts,tsx}"], environment: "node", testTimeout: 180_000 },
});
