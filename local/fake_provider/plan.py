"""Turns a script and a prompt into the bytes and pauses of an HTTP response."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from typing import Literal

from local.fake_provider.script import Script
from local.fake_provider.wires import AnthropicWire, OpenAIWire, ReplyFramer, error_body

Ending = Literal["keep", "close", "reset", "hold"]
_TOKEN = re.compile(r"\s*\S+|\s+")
_REASONS = {200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 429: b"Too Many Requests"}
_END = b"0\r\n\r\n"
# Seconds before a reset. A reset discards data that the client has not read yet.
_BEFORE_RESET = 0.03


@dataclass(frozen=True, slots=True)
class Plan:
    """The pauses, in seconds, and the bytes to write after each; then the connection's end."""

    writes: tuple[tuple[float, bytes], ...]
    ending: Ending = "keep"


def reply_to(prompt: str) -> str:
    """Return the reply to `prompt` without a script."""
    return f"You said: {prompt}"


def tokens_of(text: str) -> list[str]:
    """Return the fake's tokens of `text`: words, each with the white space before it."""
    return _TOKEN.findall(text)


def error_plan(wire: str, status: int, script: Script) -> Plan:
    """Return the plan of an error response."""
    fields = {"Retry-After": script.retry_after, "retry-after-ms": script.retry_after_ms}
    extra = b"".join(
        b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in fields.items() if value
    )
    body = script.error_body.encode() or error_body(wire, status, script)
    return Plan(((script.first_delay, response(status, body, extra)),))


def response(status: int, body: bytes, extra: bytes = b"", kind: bytes = b"application/json") -> bytes:
    """Return an HTTP response with a Content-Length."""
    reason = _REASONS.get(status, b"Whatever")
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status,
        reason,
        kind,
        len(body),
        extra,
        body,
    )


@lru_cache(maxsize=64)
def reply_plan(wire_name: str, script: Script, model: str, prompt: str) -> Plan:
    """Return the plan of a 200 response, with its faults."""
    if script.fault == "hangup":
        return Plan(((script.first_delay, b""),), "close")
    if script.fault == "silence":
        return Plan((), "hold")
    if script.fault == "html":
        page = b"<html><body>Please log in to this network.</body></html>"
        return Plan(((script.first_delay, response(200, page, kind=b"text/html")),))
    if script.body:
        fields = {b"Retry-After": script.retry_after}
        extra = b"".join(b"%b: %b\r\n" % (name, value.encode()) for name, value in fields.items() if value)
        whole = response(200, script.body.encode(), extra, script.content_type.encode())
        return Plan(((script.first_delay, whole),))
    input_tokens = len(tokens_of(prompt))
    wire: ReplyFramer = (OpenAIWire if wire_name == "openai" else AnthropicWire)(script, model, input_tokens)
    tokens = list(script.tokens if script.tokens is not None else tokens_of(reply_to(prompt)))
    if script.count:
        tokens = list(islice(cycle(tokens), script.count))
    if script.number:
        tokens = [f"{token}/{script.number}" for token in tokens]
    writes, ending = _payload(script, wire, tokens)
    kind = b"Content-Type: %b\r\n" % script.content_type.encode() if script.content_type else b""
    head = b"HTTP/1.1 200 OK\r\n%bCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    framed = [(script.first_delay, head)]
    for pause, payload in writes:
        framed += _packets(script, pause, _chunks(script, payload))
    if ending == "keep":
        framed.append((0.0, _END))
    return Plan(tuple(_merge(framed)), ending)


def _payload(
    script: Script, wire: ReplyFramer, tokens: list[str]
) -> tuple[list[tuple[float, bytes]], Ending]:
    """Return the reply as payloads of HTTP chunks with pauses in seconds, and the connection's end."""
    if script.frames is not None:
        # A lone surrogate stands for a byte that is not UTF-8.
        said_frames = [(script.delay, frame.encode("utf-8", "surrogateescape")) for frame in script.frames]
        endings: dict[str | None, Ending] = {None: "keep", "eof": "close", "reset": "reset", "stall": "hold"}
        rest = [(_BEFORE_RESET, b"")] if script.fault == "reset" else []
        return said_frames + rest, endings[script.fault]
    writes = [(0.0, (b"\xef\xbb\xbf" if script.byte_order_mark else b"") + wire.opening())]
    writes += [(script.delay, wire.reasoning(text)) for text in script.reasoning]
    size = script.tokens_per_write or max(len(tokens), 1)
    broken = script.fault is not None
    said = 0
    while said < len(tokens):
        if broken and said >= script.fault_after:
            break
        group = tokens[said : said + size]
        if broken:
            group = group[: script.fault_after - said]
        frames = []
        for text in group:
            if script.ping_every and said % script.ping_every == 0:
                frames.append(wire.ping())
            if script.unknown_events:
                frames.append(wire.unknown())
            frames.append(wire.token(text))
            said += 1
        writes.append((script.delay, b"".join(frames)))
    counted = len(tokens) if script.counted is None else script.counted
    closing = (0.0, wire.closing(counted) + wire.marker())
    match script.fault:
        case None:
            return [*writes, closing], "keep"
        case "cut":
            return writes, "keep"
        case "unmarked":
            return [*writes, (0.0, wire.closing(said))], "keep"
        case "eof":
            return writes, "close"
        case "reset":
            return [*writes, (_BEFORE_RESET, b"")], "reset"
        case "error":
            return [*writes, (0.0, wire.error())], "keep"
        case "json":
            return [
                *writes,
                (0.0, b'data: {"type":"content_block_delta","choices":[{"del\n\n'),
                closing,
            ], "keep"
        case "utf8":
            return [*writes, (0.0, wire.token("??").replace(b"??", b"\xff\xfe")), closing], "keep"
        case "deep":
            nested = b"[" * 100_000 + b"]" * 100_000
            return [*writes, (0.0, b'data: {"type":"error","error":%b}\n\n' % nested), closing], "keep"
        case "type":
            return [*writes, (0.0, wire.mistyped()), closing], "keep"
        case "sse":
            return [
                *writes,
                (0.0, b"<html>\nupstream: gone away\n\n\x00\x01\x02 502 Bad Gateway\n\n"),
            ], "keep"
        case "endless":
            return [*writes, (0.0, b"data: "), *[(0.0, b"x" * 65536)] * 80], "hold"
        case _:
            return writes, "hold"


def _chunks(script: Script, payload: bytes) -> bytes:
    """Return `payload` in HTTP chunks of the script's size (RFC 9112, 7.1)."""
    if script.line_end != "\n":
        payload = payload.replace(b"\n", script.line_end.encode())
    size = script.chunk_bytes or len(payload) or 1
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces])


def _packets(script: Script, pause: float, data: bytes) -> Iterator[tuple[float, bytes]]:
    """Yield `data` in packets of the script's size."""
    size = script.packet_bytes or len(data) or 1
    for start in range(0, len(data) or 1, size):
        yield pause, data[start : start + size]
        pause = script.packet_delay


def _merge(writes: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Yield the writes, joined where there is no pause between them."""
    start = 0.0
    parts: list[bytes] = []
    for pause, data in writes:
        if pause and parts:
            yield start, b"".join(parts)
            parts = []
        if not parts:
            start = pause
        parts.append(data)
    yield start, b"".join(parts)
