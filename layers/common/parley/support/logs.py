"""Writes structured logs: one JSON object a line, with named fields and nothing that a user wrote."""

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
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
# A place for a value in another library's template, as `logging` fills it in.
_PLACE = re.compile(r"%(?:\((?P<name>[^)]*)\))?[-#0 +]*\d*(?:\.\d+)?[hlL]?(?P<kind>[a-zA-Z%])")
# The text of a traceback, up to the class of the first exception: all that quotes data follows.
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n((?: .*\n)+)([\w.]+)")
_FRAME = re.compile(r'^  File "(?:[^"\n]*[/\\])?([^"\n]+)", line (\d+), in (\S+)', re.MULTILINE)
# uvicorn's words are about the server alone: its address, its processes, its reloads. Its access log quotes
# requests, and a request line holds a session id.
_SERVER, _ACCESS = "uvicorn.error", "uvicorn.access"
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
            "message": record.getMessage() if _is_own(record) else _foreign_message(record),
        }
        if _is_own(record):
            # Another library's fields may hold anything, uvicorn's a second template with colours.
            entry |= redact({k: v for k, v in vars(record).items() if k not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            entry["error"] = record.exc_info[0].__name__
            entry["trace"] = _places(record.exc_info[2])
        elif (found := _TRACEBACK.match(str(record.msg))) is not None:
            # Starlette sends a failed start to the server as text.
            entry["error"] = found[2].rpartition(".")[2]
            entry["trace"] = [f"{file}:{line} {name}" for file, line, name in _FRAME.findall(found[1])][-12:]
        with contextlib.suppress(UnicodeEncodeError):
            line = _encoder.encode(entry)
            if line.isascii():
                return line.decode()
        # Slower, but it escapes the characters that some readers take for the end of a line, and halves of
        # surrogate pairs.
        return json.dumps(entry, default=str)


def _is_own(record: logging.LogRecord) -> bool:
    return record.name == "parley" or record.name.startswith("parley.")


def _foreign_message(record: logging.LogRecord) -> str:
    """Return the first line of another library's message, with the values that quote nothing.

    Those are numbers, and the text that uvicorn fills in. Any other value's directive stays in its place. A
    message that is an exception is told by the exception's class.
    """
    if isinstance(record.msg, BaseException):
        return _name(record.msg)
    lines = str(record.msg).splitlines()
    template = lines[0] if lines else ""
    if not record.args or "*" in template:
        return template
    named = record.args if isinstance(record.args, Mapping) else {}
    values = iter(() if named else record.args)
    known = (int, float, str) if record.name == _SERVER else (int, float)

    def filled(place: re.Match[str]) -> str:
        if place["kind"] == "%":
            return "%"
        value = named.get(place["name"]) if place["name"] else next(values, None)
        if isinstance(value, known):
            with contextlib.suppress(TypeError, ValueError):
                return place[0] % (named or value)
        return place[0]

    return _PLACE.sub(filled, template)


def _name(error: BaseException) -> str:
    """Return an exception's class, and the system's words for its number; its own message may quote data."""
    number = getattr(error, "errno", None)
    words = f": {os.strerror(number)}" if isinstance(error, OSError) and isinstance(number, int) else ""
    return f"{type(error).__name__}{words}"


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
    """Send records to standard output as JSON: Parley's from `level` on, other libraries' from WARNING on.

    uvicorn keeps its own level (its option `--log-level`), but neither its handlers nor its access log.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("parley").setLevel(level)
    for name in ("uvicorn", _SERVER, _ACCESS):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = name != _ACCESS
