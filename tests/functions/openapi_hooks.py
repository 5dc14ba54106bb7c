"""Loaded by schemathesis: most bodies name a model and a user that there are, to get further in."""

from typing import Any

import schemathesis

_OPTIONAL = ("userId", "chatId", "prompt")


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Put real names in the place of made-up ones, where the body is of the right shape."""
    if not isinstance(body, dict) or not isinstance(body.get("modelId"), str) or len(repr(body)) % 4 == 0:
        return body
    if any(not isinstance(body.get(name), str | None) for name in _OPTIONAL):
        return body
    prompt = body.get("prompt") or "Hello?"
    return body | {"modelId": "demo", "userId": "demo-pro", "chatId": None, "prompt": prompt}
