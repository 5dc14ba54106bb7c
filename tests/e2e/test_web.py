"""The web UI's own checks, as part of every run: types, and the unit tests of client, reducer and hook."""

import subprocess
from pathlib import Path

import pytest

_WEB = Path(__file__).resolve().parents[2] / "web"


@pytest.mark.parametrize("script", ["check", "test"])
def test_the_web_s_own_checks_and_tests_pass(site: None, script: str) -> None:
    done = subprocess.run(
        ["npm", "run", "--silent", script], cwd=_WEB, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
