"""Responses whose body is JSON, made from structs of the wire."""

import math
from collections.abc import Mapping

from starlette.responses import Response

from parley.api.pages import news_of
from parley.api.schemas import Wire, error_body
from parley.domain.errors import ChatMoved, ParleyError
from parley.support.encoding import to_json

_JSON = (b"content-type", b"application/json")


class JsonResponse(Response):
    """A JSON response whose body is serialised already."""

    media_type = "application/json"

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        # The fields that Starlette would compute, without the computation: there are always these two.
        self.raw_headers = [_JSON, (b"content-length", b"%d" % len(self.body))]


def json_response(body: Wire, status: int = 200) -> Response:
    """Return `body` as a JSON response."""
    return JsonResponse(to_json(body), status)


def error_response(error: ParleyError) -> Response:
    """Return the JSON response for an error, with Retry-After in whole seconds (RFC 9110, section 10.2.3)."""
    details = error.details()
    if isinstance(error, ChatMoved) and error.news is not None:
        details |= news_of(error.news)
    body = error_body(error.code, error.message, retryable=error.retryable, **details)
    response = json_response(body, error.status)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return response
