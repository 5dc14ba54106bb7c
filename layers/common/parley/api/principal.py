"""Determines which user sent a request."""

from starlette.requests import Request

from parley.api.services import USER
from parley.domain.errors import Forbidden, InvalidRequest, Unauthorized
from parley.domain.ids import is_subject
from parley.services import Services


async def principal(request: Request, services: Services, claimed: str | None) -> str:
    """Return the user's id: the subject of the verified bearer token, or `claimed` in trusted mode.

    Raises `Unauthorized` without a valid token (RFC 6750), `Forbidden` if `claimed` is not the token's
    subject, and `InvalidRequest` if `claimed` is malformed, or absent in trusted mode.
    """
    if claimed is not None and not is_subject(claimed):
        raise InvalidRequest("userId must be 1 to 128 printable characters.", field="userId")
    if services.settings.auth_mode == "trusted":
        if claimed is None:
            raise InvalidRequest("userId is required.", field="userId")
        request.scope[USER] = claimed
        return claimed
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or services.verifier is None:
        raise Unauthorized("A bearer token is required.")
    subject = request.scope[USER] = await services.verifier.verify(token.strip())
    if claimed is not None and claimed != subject:
        raise Forbidden("userId is not the token's subject.", field="userId")
    return subject
