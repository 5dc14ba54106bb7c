import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { header, readPolicy, withHashes } from "../scripts/csp";

describe("the Content-Security-Policy", () => {
  it("has the hashes of simple.html (`npm run csp` writes them)", () => {
    expect(readPolicy()).toEqual(withHashes(readPolicy()));
    expect(readPolicy()["script-src"]?.filter((source) => source.startsWith("'sha256-"))).toHaveLength(1);
  });

  it("allows nothing inline, evaluated or from elsewhere", () => {
    expect(readPolicy()["default-src"]).toEqual(["'none'"]);
    expect(header(readPolicy())).not.toMatch(/unsafe|\*|https?:/);
  });

  it.each(["index.html", "public/simple.html"])("finds nothing inline in %s but one script and one style", (file) => {
    const page = readFileSync(new URL(`../${file}`, import.meta.url), "utf8");
    const own = file === "public/simple.html" ? 1 : 0;
    expect(page.match(/<script>/g) ?? []).toHaveLength(own);
    expect(page.match(/<style/g) ?? []).toHaveLength(own);
    expect(page).not.toMatch(/ on[a-z]+=| style=|javascript:/i);
  });
});
