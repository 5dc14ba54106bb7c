"""Writes structured logs: one JSON object a line, with named fields and nothing that a user wrote."""

import contextlib
import json
import logging
import sys
import time
from typing import Any

import msgspec

# Fields whose values never leave the process, however they got into a record.
_SECRET = frozenset(
    {
        "prompt", "content", "text", "reply", "parts", "title", "session_id", "sessionId",
        "authorization", "token", "api_key", "key", "secret", "password", "url", "dsn", "body",
    }
)  # fmt: skip
_encoder = msgspec.json.Encoder(enc_hook=str)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(fields: dict[str, Any]) -> dict[str, Any]:
    """Return `fields` with the values of secret fields replaced."""
    return {name: "[redacted]" if name in _SECRET else value for name, value in fields.items()}


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON. An exception shows type and place alone: its message may quote data."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        entry |= redact({k: v for k, v in vars(record).items() if k not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            entry["error"] = record.exc_info[0].__name__
            entry["trace"] = _places(record.exc_info[2])
        with contextlib.suppress(UnicodeEncodeError):
            line = _encoder.encode(entry)
            if line.isascii():
                return line.decode()
        # Slower, but it escapes the characters that some readers take for the end of a line, and halves of
        # surrogate pairs.
        return json.dumps(entry, default=str)


def _message(record: logging.LogRecord) -> str:
    """Return our own message, or the first line of another library's template, which quotes nothing."""
    if record.name == "parley" or record.name.startswith("parley."):
        return record.getMessage()
    lines = str(record.msg).splitlines()
    return lines[0] if lines else ""


def _places(trace: Any) -> list[str]:
    places: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-12:]


def logger(name: str) -> logging.Logger:
    """Return Parley's logger of that name."""
    return logging.getLogger(f"parley.{name}")


def configure(level: str) -> None:
    """Send Parley's records to standard output as JSON; other libraries' records only from WARNING on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("parley").setLevel(level)
