"""What a function has to know of Lambda: its deadline, and what to do before its first request."""

import asyncio
import importlib
import os
import time
from collections.abc import Callable

from parley.settings import Settings
from parley.support.encoding import from_json


def lambda_deadline(context: str | None, margin: float) -> float | None:
    """Return when this invocation's work must end, in the event loop's time; None outside Lambda.

    Lambda Web Adapter passes the invocation's context as JSON in `x-amzn-lambda-context`, its `deadline`
    in milliseconds since the Unix epoch.
    """
    if not context:
        return None
    try:
        deadline = float(from_json(context)["deadline"])
    except (ValueError, TypeError, KeyError):
        return None
    left = deadline / 1000 - time.time() - margin
    return asyncio.get_running_loop().time() + max(0.0, left)


def preload(read_settings: Callable[[], Settings], *, tokens: bool) -> None:
    """Import, inside Lambda, what the first request will need; `tokens` where it brings one.

    A sandbox has its full speed only until its first request, and a snapshot keeps what was imported.
    """
    if "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:
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
