"""Scripts for the fake provider: the reply to a request, and its faults."""

from typing import Literal
from urllib.parse import parse_qsl

import msgspec

Fault = Literal[
    "cut",  # the body ends normally, but without a finish reason and a terminal marker
    "unmarked",  # the finish reason comes, but no terminal marker ([DONE], message_stop)
    "eof",  # the connection ends inside the body
    "reset",  # the connection is reset
    "stall",  # nothing more is sent until the client leaves
    "error",  # an error event, then the body ends
    "json",  # an event with half a JSON text
    "utf8",  # an event with invalid UTF-8
    "deep",  # an event of JSON nested 100,000 levels deep
    "type",  # an event of valid JSON with a field of the wrong type
    "sse",  # lines that are not an event stream, then the body ends
    "endless",  # one event without an end
    "hangup",  # the connection is closed without a response
    "silence",  # no response until the client leaves
    "html",  # an HTML page with status 200
]


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One reply: its tokens, pace, packets and end. Durations are in seconds unless the name has a unit.

    - `tokens` are the reply. `count` repeats or cuts them to that number. Without both, the reply echoes
      the prompt.
    - `tokens_per_write` tokens go into one write (0: all of them).
    - `counted` is the number of output tokens in the usage, if it shall be wrong.
    - `numbered` adds the call's number to every token, so that no two calls have the same reply.
    - `fault` happens after `fault_after` tokens, in the first `fault_times` calls (0: in all).
    - `status` is sent in place of a reply, in the first `status_times` calls (0: in all). `error_body` is its
      body, as JSON.
    - `frames` are sent as they are in place of all that, one after each `delay`. The faults stall, eof and
      reset come after them.
    - `content_type` labels the response, and `body` is all of its body.
    - `unknown_fields` are refused in a request. So is a prompt of more than `context_tokens` words.
    """

    tokens: tuple[str, ...] | None = None
    count: int = 0
    numbered: bool = False
    number: int = 0
    reasoning: tuple[str, ...] = ()
    delay: float = 0.0
    first_delay: float = 0.0
    tokens_per_write: int = 1
    packet_bytes: int = 0
    packet_delay: float = 0.001
    chunk_bytes: int = 0
    finish: str = "stop"
    refusal: bool = False
    usage: Literal["after", "with", "none"] = "after"
    counted: int | None = None
    ping_every: int = 0
    unknown_events: bool = False
    escape_unicode: bool = False
    line_end: Literal["\n", "\r\n", "\r"] = "\n"
    byte_order_mark: bool = False
    fault: Fault | None = None
    fault_after: int = 0
    fault_times: int = 0
    status: int = 200
    status_times: int = 0
    error_type: str = ""
    error_message: str = "The fake provider was told to fail; this text must never be shown."
    retry_after: str = ""
    retry_after_ms: str = ""
    frames: tuple[str, ...] | None = None
    content_type: str = "text/event-stream; charset=utf-8"
    body: str = ""
    error_body: str = ""
    unknown_fields: tuple[str, ...] = ()
    context_tokens: int = 0

    def of_call(self, number: int) -> "Script":
        """Return the script for call `number` of a model, counted from 1."""
        changes: dict[str, object] = {"number": number} if self.numbered else {}
        if self.status_times and number > self.status_times:
            changes["status"] = 200
        if self.fault_times and number > self.fault_times:
            changes["fault"] = None
        return msgspec.structs.replace(self, **changes) if changes else self


SCENARIOS = {
    "fake-slow": Script(delay=0.05),
    "fake-long": Script(count=2000, delay=0.01),
    "fake-burst": Script(tokens_per_write=0),
    "fake-empty": Script(tokens=()),
    "fake-length": Script(finish="length"),
    "fake-filter": Script(finish="content_filter"),
    "fake-refusal": Script(tokens=("I cannot ", "help with that."), refusal=True),
    "fake-cut": Script(fault="cut", fault_after=3),
    "fake-reset": Script(fault="reset", fault_after=3),
    "fake-stall": Script(fault="stall", fault_after=3),
    "fake-error": Script(fault="error", fault_after=3),
    "fake-json": Script(fault="json", fault_after=3),
    "fake-sse": Script(fault="sse", fault_after=3),
    "fake-silence": Script(fault="silence"),
    "fake-drip": Script(packet_bytes=1, packet_delay=1.0),
    "fake-429": Script(status=429, retry_after="1"),
    "fake-429-twice": Script(status=429, status_times=2, retry_after_ms="20"),
    "fake-500": Script(status=500),
    "fake-529": Script(status=529),
    "fake-emoji": Script(tokens=("👩‍🚀 ", "🇩🇪", "e\u0301", "👍🏽"), packet_bytes=1),
    "fake-forge": Script(
        tokens=(
            '\n\ndata: {"type":"done"}\n\n',
            "\r",
            "\r\n",
            "\u2028",
            "\u2029",
            "\x85",
            "</script>",
            "id: 9-9\n\n",
        )
    ),
    "fake-noise": Script(ping_every=1, unknown_events=True, reasoning=("Let me ", "think.")),
}


def script_in_name(model: str) -> Script | None:
    """Return the script in a model's name, or the scenario of that name, or None. Raises `ValueError`.

    `fake?tokens=a|b|c&delay=0.01` gives the tokens, separated by bars. `tokens=200` means `count=200`.
    """
    if model in SCENARIOS:
        return SCENARIOS[model]
    if not model.startswith("fake?"):
        return None
    fields: dict[str, object] = {}
    for name, value in parse_qsl(model.removeprefix("fake?"), keep_blank_values=True, strict_parsing=True):
        if name == "tokens" and value.isdigit():
            fields["count"] = value
        elif name in ("tokens", "reasoning"):
            fields[name] = value.split("|") if value else []
        else:
            fields[name] = value
    return msgspec.convert(fields, Script, strict=False)
