"""Puts the tables of the newest whole run into docs/performance.md: `make bench-docs`."""

import re
import sys

from bench.install import ROOT

_PAGE = ROOT / "docs/performance.md"
_FIGURES = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", re.DOTALL)


def main() -> int:
    """Replace what stands between the marks; return 1 if there is no whole run."""
    results = sorted((ROOT / "bench/results").glob("20*.md"))
    if not results:
        print("There is no whole run yet; make bench", file=sys.stderr)
        return 1
    _, _, text = results[-1].read_text("utf-8").partition("\n\n")
    tables = f"\nThe run of {results[-1].stem}: " + text.replace("\n## ", "\n### ") + "\n"
    _PAGE.write_text(_FIGURES.sub(lambda _: tables, _PAGE.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
