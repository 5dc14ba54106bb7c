"""Reads an invocation's deadline, and imports modules before a sandbox's first request."""

import asyncio
import importlib
import os
import time
from collections.abc import Callable

from parley.settings import Settings
from parley.support.encoding import from_json


def in_lambda() -> bool:
    """Return whether this process is a sandbox of Lambda."""
    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ


def lambda_deadline(context: str | None, margin: float) -> float | None:
    """Return the end of this invocation's work, in the event loop's time; None outside Lambda.

    `context` is the header `x-amzn-lambda-context`: Lambda Web Adapter's JSON of the invocation's context.
    Its `deadline` is in milliseconds since the Unix epoch. The work ends `margin` seconds before it.
    The adapter replaces a header that a client sent. Outside Lambda nobody does, so it is ignored there.
    """
    if not context or not in_lambda():
        return None
    try:
        deadline = float(from_json(context)["deadline"])
    except (ValueError, TypeError, KeyError):
        return None
    left = deadline / 1000 - time.time() - margin
    return asyncio.get_running_loop().time() + max(0.0, left)


def preload(read_settings: Callable[[], Settings], *, tokens: bool) -> None:
    """Import the modules that the first request needs. Does nothing outside Lambda.

    `tokens` says that the first request has a bearer token. A sandbox has its full speed only before its
    first request, and a snapshot keeps the imported modules.
    """
    if not in_lambda():
        return
    settings = read_settings()
    needed = {
        "aws_lambda_powertools.utilities.parameters": bool(
            settings.database_secret_arn or settings.keys_secret_arn
        ),
        "parley.valkey.log": bool(settings.valkey_url),
        "parley.auth.jwt": tokens and settings.auth_mode == "jwt",
    }
    for module, is_needed in needed.items():
        if is_needed:
            importlib.import_module(module)
