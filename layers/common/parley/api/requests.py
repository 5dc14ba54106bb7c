"""Reads the parameters and the body of a request, as structs of the wire."""

import functools
import re
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from parley.api.schemas import Wire
from parley.domain.errors import InvalidRequest, UnsupportedMedia
from parley.support.encoding import from_json

W = TypeVar("W", bound=Wire)

# msgspec tells where a value is wrong by the message alone: `… - at `$.field``, or `… field `field``.
_WRONG = re.compile(r"- at `\$\.([A-Za-z]+)")
_MISSING = re.compile(r"Object missing required field `([A-Za-z]+)`")


def read_query(request: Request, kind: type[W]) -> W:
    """Return the query's parameters. Unknown ones are ignored; if one is repeated, the last value counts.

    Raises `InvalidRequest`, which names the parameter but never its value.
    """
    parameters = _parameters(request.scope["query_string"].decode("latin-1"))
    for name in _numbers_of(kind):
        # msgspec reads more than digits as an integer: `1e2`, and `null` as none.
        value = parameters.get(name, "0")
        if not (value.isascii() and value.isdigit()):
            raise InvalidRequest(f"{name} is missing or malformed.", field=name)
    try:
        return msgspec.convert(parameters, kind, strict=False)
    except msgspec.ValidationError as error:
        field, _ = _fault_of(error)
    raise InvalidRequest(f"{field} is missing or malformed.", field=field)


@functools.cache
def _numbers_of(kind: type[Wire]) -> tuple[str, ...]:
    """Return the names of the parameters that are integers."""
    described = msgspec.inspect.type_info(kind)
    assert isinstance(described, msgspec.inspect.StructType)
    return tuple(
        field.encode_name
        for field in described.fields
        if any(
            isinstance(one, msgspec.inspect.IntType)
            for one in (
                field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
            )
        )
    )


def _parameters(query: str) -> dict[str, str]:
    """Parse a query string as Starlette does, without Starlette's multi-dictionary."""
    if "%" in query or "+" in query:
        return dict(parse_qsl(query, keep_blank_values=True))
    parts = (part.partition("=") for part in query.split("&") if part)
    return {name: value for name, _, value in parts}


async def read_body(request: Request, kind: type[W]) -> W:
    """Return the JSON body.

    Raises `InvalidRequest`, which names the field, and `UnsupportedMedia` for a Content-Type other than JSON.
    Messages never quote the body. `RequestLimits` limits its size.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMedia("The body must be application/json.", field="Content-Type")
    body = await request.body()
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        field, what = _fault_of(error)
    except (ValueError, RecursionError):
        field = ""
    # What is wrong with a field may be told before what is wrong with the JSON behind it.
    if not field or not _is_json(body):
        raise InvalidRequest("The body must be a JSON object in UTF-8.", field="body")
    raise InvalidRequest(f"{field} {what}.", field=field)


def _is_json(body: bytes) -> bool:
    try:
        from_json(body)
    except ValueError:
        return False
    return True


def _fault_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return the field that is wrong, and what is wrong; an empty field if it is the object as a whole."""
    said = str(error)
    if missing := _MISSING.match(said):
        return missing[1], "is required"
    wrong = _WRONG.search(said)
    return (wrong[1] if wrong else ""), "has the wrong type"
