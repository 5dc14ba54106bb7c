"""How the routes get what they work with."""

from typing import cast

from fastapi import Request

from parley.services import Services


def services_of(request: Request) -> Services:
    """Return what the application works with."""
    return cast("Services", request.app.state.services())
