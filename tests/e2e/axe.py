"""Asks axe what stands in the way of people who cannot see, hear or point well."""

import json
from pathlib import Path

from playwright.async_api import Page

_SOURCE = Path(__file__).resolve().parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
_RUN = """() => axe.run({ rules: { "target-size": { enabled: true } } }).then(({ violations }) =>
  violations.map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]))"""


async def expect_accessible(page: Page, state: str) -> None:
    """Fail with what axe finds on the page in its present state."""
    await page.evaluate(_SOURCE.read_text("utf-8"))
    found = await page.evaluate(_RUN)
    assert found == [], f"{state}: {json.dumps(found, indent=1)}"
