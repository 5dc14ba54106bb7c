"""The application that documents its routes: FastAPI's, for a laptop, a container and the document."""

import inspect
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.routing import BaseRoute

from parley.api.app import prepared, stack
from parley.api.operations import Content, Operation
from parley.api.schemas import Wire
from parley.services import Services
from parley.settings import Settings

# FastAPI would ask at every request whether OpenTelemetry is set up, and then tell it of requests and errors.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
_REFERENCE = "#/components/schemas/{name}"


def documented_app(
    title: str,
    operations: Sequence[Operation],
    settings: Settings,
    services: Callable[[], Services],
    *,
    prefix: str = "",
    **options: Any,
) -> FastAPI:
    """Return an application with these routes below `prefix`, and with their document at `openapi.json`."""
    placed = [operation.below(prefix) for operation in operations]
    routes: list[BaseRoute] = [*placed]
    app = FastAPI(
        title=title, version="1", docs_url=None, redoc_url=None, openapi_url=f"{prefix}/openapi.json",
        routes=routes, telemetry=_NO_TELEMETRY, **stack(settings), **options,
    )  # fmt: skip
    document = _document(title, placed)
    # FastAPI makes documents of its own kind of routes.
    app.openapi = lambda: document  # type: ignore[method-assign]
    prepared(app, services)
    return app


def _document(title: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of the routes that are not hidden."""
    shown = [operation for operation in operations if not operation.hidden]
    types = {
        content
        for operation in shown
        for content in (operation.takes, *operation.responses.values())
        if isinstance(content, type)
    }
    _, components = msgspec.json.schema_components(
        sorted(types, key=lambda kind: kind.__name__), ref_template=_REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in shown:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": paths,
        "components": {"schemas": components},
    }


def _described(operation: Operation) -> dict[str, Any]:
    summary, _, more = inspect.cleandoc(operation.endpoint.__doc__ or "").partition("\n\n")
    described: dict[str, Any] = {
        "summary": " ".join(summary.split()),
        "operationId": operation.name,
        "responses": {
            str(status): _response(status, content) for status, content in operation.responses.items()
        },
    }
    if more:
        described["description"] = more
    parameters = _parameters(operation)
    if parameters:
        described["parameters"] = parameters
    if operation.takes is not None:
        described["requestBody"] = {"required": True} | _content(operation.takes)
    return described


def _response(status: int, content: Content) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase} | _content(content)


def _content(content: Content) -> dict[str, Any]:
    if content is None:
        return {}
    if isinstance(content, str):
        return {"content": {content: {}}}
    reference = {"$ref": _REFERENCE.format(name=content.__name__)}
    return {"content": {"application/json": {"schema": reference}}}


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters = [
        _parameter("header", name, msgspec.json.schema(kind)) for name, kind in operation.headers.items()
    ]
    if operation.query is None:
        return parameters
    schema = _schema_of(operation.query)
    required = schema.get("required", ())
    fields = [
        _parameter("query", name, _without_null(field), required=name in required)
        for name, field in schema["properties"].items()
    ]
    return fields + parameters


def _parameter(where: str, name: str, schema: object, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": schema}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what a parameter is where it is there: a query has no null, and leaves it out."""
    arms: list[dict[str, Any]] = schema.get("anyOf", [schema])
    [kind] = [arm for arm in arms if arm != {"type": "null"}]
    return kind


def _schema_of(kind: type[Wire]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components([kind])
    schema: dict[str, Any] = components[kind.__name__]
    return schema
