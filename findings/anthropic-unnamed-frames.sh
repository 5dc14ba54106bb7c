#!/usr/bin/env bash
# Anthropic's SDK drops every frame without an `event:` line, an error too, yet hardly looks at what the line says.
#
# Versions: anthropic 2.14.0.
# Expected: a frame's JSON has its own `type`, the same word as its `event:` line, and the SDK builds its events from
#   `type`. So a compatible server or proxy that writes `data:` lines only, as servers of OpenAI's wire do, works; or
#   the SDK says that it understood nothing.
# Happens: all frames are passed over. `create(stream=True)` and `text_stream` end at once, empty, without an exception
#   or a warning; `get_final_message()` is an AssertionError without a text. An error frame vanishes as well. Any name
#   at all will do: with `event: message` before every frame, which is what a missing name stands for in SSE, the reply
#   is whole. An error so named does not raise either: it is an event of the class for a message's start.
# Why it matters: status 200 and an empty reply. It looks as if the model had nothing to say, and what a user pays for
#   is on the wire, unread. Sync and async do the same.
# Seen 2026-11-30, Python 3.11 (events and final message: sync; text: async)
#   | own names: 6 events, last RawMessageStopEvent message_stop; text Hello; final end_turn
#   | own names, overloaded: APIStatusError 200
#   | no names: 0 events; text -; final AssertionError()
#   | no names, overloaded: 0 events; text -; final AssertionError()
#   | all named message: 6 events, last RawMessageStopEvent message_stop; text Hello; final end_turn
#   | all named message, overloaded: 4 events, last RawMessageStartEvent error; text Hello; final None
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

"$dir/venv/bin/python" -I - >"$dir/seen" <<'PYTHON'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic

REPLY = [
    {"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
     "usage": {"output_tokens": 2}},
    {"type": "message_stop"}]
OVERLOADED = REPLY[:3] + [{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}]
ASK = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}


class Provider(BaseHTTPRequestHandler):
    body = ""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(f"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{self.body}".encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {"base_url": f"http://127.0.0.1:{server.server_port}", "api_key": "k", "max_retries": 0, "timeout": 10}
client = anthropic.Anthropic(**options)


async def async_text():
    async with anthropic.AsyncAnthropic(**options) as client, client.messages.stream(**ASK) as stream:
        return "".join([text async for text in stream.text_stream])


def read():
    events = list(client.messages.create(stream=True, **ASK))
    with client.messages.stream(**ASK) as stream:
        try:
            final = stream.get_final_message().stop_reason
        except AssertionError as error:
            final = repr(error)
    last = f", last {type(events[-1]).__name__} {events[-1].type}" if events else ""
    return f"{len(events)} events{last}; text {asyncio.run(async_text()) or '-'}; final {final}"


for title, line in ("own names", "event: {}\n"), ("no names", ""), ("all named message", "event: message\n"):
    for suffix, frames in ("", REPLY), (", overloaded", OVERLOADED):
        Provider.body = "".join(f"{line.format(frame['type'])}data: {json.dumps(frame)}\n\n" for frame in frames)
        try:
            print(f"{title}{suffix}: {read()}")
        except anthropic.APIStatusError as error:
            print(f"{title}{suffix}: {type(error).__name__} {error.status_code}")
PYTHON

diff <(sed -n 's/^#   | //p' "$0") "$dir/seen" && cat "$dir/seen"
