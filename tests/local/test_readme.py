from pathlib import Path

from local.readme import updated


def test_the_readme_lists_the_settings_as_they_are() -> None:
    text = Path("README.md").read_text("utf-8")
    assert updated(text) == text, "run python -m local.readme"
