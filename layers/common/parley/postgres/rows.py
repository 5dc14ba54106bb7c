"""Converts columns of Postgres to the domain's values, and values to columns.

Each statement has the shape of its rows beside it. What several of them select is converted here, from the
attributes that a shape names.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

from psycopg.types.json import Jsonb

from parley.domain.conversation import Model, ModelOptions, Reply
from parley.domain.events import Completed, End, Failed, FinishReason, Usage
from parley.domain.limits import charged
from parley.support.encoding import convert_leniently

_NO_OPTIONS = ModelOptions()


class ReplyColumns(Protocol):
    """A row with the columns of a reply that has ended."""

    @property
    def reply_epoch(self) -> int: ...
    @property
    def parts(self) -> Sequence[Mapping[str, str]]: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def provider_reason(self) -> str | None: ...
    @property
    def error(self) -> Mapping[str, Any] | None: ...
    @property
    def input_tokens(self) -> int | None: ...
    @property
    def output_tokens(self) -> int | None: ...


def model_of(columns: Mapping[str, Any]) -> Model:
    """Return the model of a whole row of `models` as JSON."""
    return Model(
        columns["id"],
        columns["provider"],
        columns["name"],
        columns["title"],
        columns["max_output_tokens"],
        columns["context_characters"],
        columns["system_prompt"],
        columns["parameters"],
        _options_of(columns["options"]),
    )


def interval(duration: timedelta) -> str:
    """Return a duration as a constant of SQL."""
    return f"interval '{duration.total_seconds()} seconds'"


def _options_of(column: object) -> ModelOptions:
    """Return a model's options. An invalid option counts as absent, since a row may be edited by hand."""
    if not isinstance(column, dict) or not column:
        return _NO_OPTIONS
    options: ModelOptions = convert_leniently(column, ModelOptions)
    return options


def reply_of(row: ReplyColumns) -> Reply:
    """Return the reply of a row."""
    error = row.error
    end: End
    if error is not None:
        end = Failed(error["code"], error["message"], error["retryable"], error.get("retryAfterMs"))
    else:
        usage = usage_of(row.input_tokens, row.output_tokens)
        assert row.finish_reason is not None
        end = Completed(FinishReason(row.finish_reason), row.provider_reason, usage)
    return Reply(row.reply_epoch, text_of(row.parts), end)


def reply_columns(reply: Reply) -> dict[str, object]:
    """Return the parameters of `FINISH`: the message's columns, its characters and the charged tokens."""
    charged_input, charged_output = charged(reply)
    return {
        "epoch": reply.epoch,
        "status": reply.status.value,
        "parts": text_parts(reply.text),
        "characters": len(reply.text),
        "answers": reply.answers,
        "charged_input": charged_input,
        "charged_output": charged_output,
    } | end_columns(reply.end)


def end_columns(end: End | None) -> dict[str, object]:
    """Return the columns of a message's end; without an end, all of them are null."""
    columns: dict[str, object] = dict.fromkeys(
        ("finish_reason", "provider_reason", "error", "input_tokens", "output_tokens")
    )
    if isinstance(end, Failed):
        error = {"code": end.code, "message": end.message, "retryable": end.retryable}
        if end.retry_after_ms is not None:
            error["retryAfterMs"] = end.retry_after_ms
        columns["error"] = Jsonb(error)
    elif end is not None:
        columns["finish_reason"] = end.finish_reason.value
        columns["provider_reason"] = end.provider_reason
        if end.usage is not None:
            columns["input_tokens"] = end.usage.input_tokens
            columns["output_tokens"] = end.usage.output_tokens
    return columns


def text_parts(text: str) -> Jsonb:
    """Return the column `parts` of a message's text."""
    return Jsonb([{"type": "text", "text": text}] if text else [])


def text_of(parts: Sequence[Mapping[str, str]]) -> str:
    """Return the concatenated text of a message's parts. Cursors count its characters."""
    try:
        if len(parts) == 1 and parts[0]["type"] == "text":
            return parts[0]["text"]  # no copy of a long reply: nearly every message has one part
        return "".join(part["text"] for part in parts if part["type"] == "text")
    except (KeyError, TypeError):
        return ""  # edited by hand


def usage_of(input_tokens: int | None, output_tokens: int | None) -> Usage | None:
    """Return the usage of a message, None if the provider told none."""
    if input_tokens is None or output_tokens is None:
        return None
    return Usage(input_tokens, output_tokens)
