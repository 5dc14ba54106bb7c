"""Serves the built web UI, or the one-file reference page if the web UI is not built."""

import contextlib
import json
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Scope

_WEB = Path(__file__).resolve().parent.parent / "web"


def policy() -> str:
    """Return the Content-Security-Policy field value of `web/csp.json`."""
    directives = json.loads((_WEB / "csp.json").read_text("utf-8"))
    return "; ".join(f"{name} {' '.join(values)}" for name, values in directives.items())


class _PageRoute(Route):
    """A route of pages. It has no part in the API, where a wrong method is a 405."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["path"] == "/api" or scope["path"].startswith("/api/"):
            return Match.NONE, {}
        return super().matches(scope)


def mount_web(app: FastAPI) -> None:
    """Add the web UI's route. Call it after the other routes: it matches every path outside of the API."""
    csp = policy()

    async def page(request: Request) -> Response:
        found = _file(request.path_params["path"])
        if found is None:
            raise HTTPException(404)
        response = FileResponse(found)
        response.headers["content-security-policy"] = csp
        # Names in `assets` contain a hash of the content, so such a file never changes.
        hashed = found.parent.name == "assets"
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return response

    app.router.routes.append(_PageRoute("/{path:path}", page, methods=["GET"]))


def _file(path: str) -> Path | None:
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
