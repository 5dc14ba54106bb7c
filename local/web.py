"""Serves the built web UI, or the one-file reference page if the web UI is not built."""

import contextlib
import json
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

_WEB = Path(__file__).resolve().parent.parent / "web"


def policy() -> str:
    """Return the Content-Security-Policy field value of `web/csp.json`."""
    directives = json.loads((_WEB / "csp.json").read_text("utf-8"))
    return "; ".join(f"{name} {' '.join(values)}" for name, values in directives.items())


def mount_web(app: FastAPI) -> None:
    """Add the web UI's route. Call it after the other routes are added: the route matches every path."""
    csp = policy()

    @app.api_route("/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(path: str, request: Request) -> Response:
        found = _file(path)
        if found is None:
            raise HTTPException(404)
        response = FileResponse(found)
        response.headers["content-security-policy"] = csp
        # Names in `assets` contain a hash of the content, so such a file never changes.
        hashed = found.parent.name == "assets"
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return response


def _file(path: str) -> Path | None:
    if path == "api" or path.startswith("api/"):
        return None
    for root in (_WEB / "dist", _WEB / "public"):
        # A name with a NUL, or one that is too long for the file system, is no file's.
        with contextlib.suppress(ValueError, OSError):
            candidate = (root / path).resolve()
            # The path may contain `..` or a symbolic link that leaves the folder.
            if candidate.is_file() and candidate.is_relative_to(root) and not path.endswith("/"):
                return candidate
    if "\0" in path:
        return None
    # The page's own addresses: "/" and "/chat/…", which the web UI routes in the browser.
    if path and path != "chat" and not path.startswith("chat/"):
        return None
    for page in (_WEB / "dist" / "index.html", _WEB / "public" / "simple.html"):
        if page.is_file():
            return page
    return None
