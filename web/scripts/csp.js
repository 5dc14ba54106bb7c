/**
 * The Content-Security-Policy as data (`csp.json`), and the hashes of `simple.html`, which is one
 * file on purpose: its inline script and style are allowed by their content, not by `unsafe-inline`.
 *
 * `npm run csp` writes the hashes after a change; a test keeps them true.
 */

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** @typedef {Record<string, string[]>} Policy */

const root = new URL("../", import.meta.url);
const policyFile = fileURLToPath(new URL("csp.json", root));

/** @returns {Policy} */
export const readPolicy = () => JSON.parse(readFileSync(policyFile, "utf8"));

/**
 * The policy with the hashes that simple.html has now.
 * @param {Policy} policy
 * @returns {Policy}
 */
export function withHashes(policy) {
  const page = readFileSync(new URL("public/simple.html", root), "utf8");
  return {
    ...policy,
    "script-src": [...plain(policy["script-src"]), ...hashes(page, "script")],
    "style-src": [...plain(policy["style-src"]), ...hashes(page, "style")],
  };
}

/** @param {string[]} sources */
const plain = (sources = []) => sources.filter((source) => !source.startsWith("'sha256-"));

/**
 * @param {string} page
 * @param {string} tag
 */
function hashes(page, tag) {
  return Array.from(page.matchAll(new RegExp(`<${tag}>(.*?)</${tag}>`, "gs")), ([, content = ""]) => {
    return `'sha256-${createHash("sha256").update(content).digest("base64")}'`;
  });
}

/**
 * The header's value, as every server of these files sends it.
 * @param {Policy} policy
 */
export const header = (policy) =>
  Object.entries(policy)
    .map(([directive, sources]) => [directive, ...sources].join(" "))
    .join("; ");

/**
 * One directive a line, so that a change of one is a change of one line.
 * @param {Policy} policy
 */
function write(policy) {
  const lines = Object.entries(policy).map(([name, sources]) => `  "${name}": ${JSON.stringify(sources)}`);
  writeFileSync(policyFile, `{\n${lines.join(",\n")}\n}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) write(withHashes(readPolicy()));
