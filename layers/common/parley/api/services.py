"""Gives routes access to the application's services."""

from typing import cast

from starlette.requests import Request

from parley.services import Services

# The scope's entry for the user's id, once the request is known to be theirs.
USER = "parley.user"


def services_of(request: Request) -> Services:
    """Return the services of the application that received the request."""
    return cast("Services", request.app.state.services())
