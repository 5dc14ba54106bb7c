"""Finds Chromium, or installs Debian's: the browser that the end-to-end tests and pictures drive."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

# As root there is no sandbox to be had; the rest keeps Chromium from calling home.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class NoBrowser(RuntimeError):
    """There is no Chromium, and it cannot be installed from here; the message says what to do."""


def chromium() -> str:
    """Return Chromium's path; install it where that is possible, else raise `NoBrowser`."""
    with Path(tempfile.gettempdir(), "parley-chromium.lock").open("w") as lock:
        # Several test processes would wait for apt's own lock, and fail.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _found() or _installed()


def _found() -> str | None:
    given = os.environ.get("CHROMIUM")
    if given:
        return given
    return next((path for path in map(shutil.which, _NAMES) if path), None)


def _installed() -> str:
    advice = "Install Chromium, or name one with CHROMIUM=/path/to/chromium."
    if shutil.which("apt-get") is None:
        raise NoBrowser(f"The browser tests need Chromium, and there is no apt-get to install it. {advice}")
    if os.geteuid() != 0:
        raise NoBrowser(f"The browser tests need Chromium, and only root may install it. {advice}")
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode != 0:
            raise NoBrowser(f"apt-get {command[0]} failed: {done.stderr[-500:]} {advice}")
    path = _found()
    if path is None:
        raise NoBrowser(f"Debian's chromium is installed, but there is no command for it. {advice}")
    return path
