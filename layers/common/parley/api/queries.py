"""The wire's queries and headers: read as they come, and described for the API's document.

FastAPI would read them too, at a fifth of the price of a whole read of history.
"""

from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from parley.domain.errors import InvalidRequest


class Query(BaseModel):
    """A query's parameters, in camelCase; unknown ones are ignored, of one given twice the last counts."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=False)


class UserQuery(Query):
    user_id: str | None = None


class PageQuery(UserQuery):
    limit: int = Field(50, ge=1, le=200)


class HistoryQuery(PageQuery):
    chat_id: str
    before: int | None = Field(None, ge=0, le=2**62)


class ChatListQuery(PageQuery):
    before: str | None = None


class StreamQuery(Query):
    session_id: str
    cursor: str | None = None


Q = TypeVar("Q", bound=Query)


def read_query(request: Request, kind: type[Q]) -> Q:
    """Read the query; raises `InvalidRequest` naming the parameter, and never quoting it."""
    try:
        return kind.model_validate(_parameters(request.scope["query_string"].decode("latin-1")))
    except ValidationError as error:
        field = str(error.errors(include_input=False, include_url=False)[0]["loc"][0])
    raise InvalidRequest(f"{field} is missing or malformed.", field=field)


def _parameters(query: str) -> dict[str, str]:
    """Read a query as Starlette does, without the collection that it makes of it."""
    if "%" in query or "+" in query:
        return dict(parse_qsl(query, keep_blank_values=True))
    parts = (part.partition("=") for part in query.split("&") if part)
    return {name: value for name, _, value in parts}


def takes_query(kind: type[Query], *headers: str) -> dict[str, Any]:
    """Return the documentation of a route's parameters and optional headers."""
    schema = kind.model_json_schema(by_alias=True)
    required = schema.get("required", ())
    parameters = [
        {"name": name, "in": "query", "required": name in required, "schema": described}
        for name, described in schema["properties"].items()
    ]
    return {"parameters": parameters + takes_headers(*headers)["parameters"]}


def takes_headers(*names: str) -> dict[str, Any]:
    """Return the documentation of optional headers."""
    return {
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in names
        ]
    }
