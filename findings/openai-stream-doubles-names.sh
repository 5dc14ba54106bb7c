#!/usr/bin/env bash
# OpenAI's helper `chat.completions.stream()` writes a repeated id, tool name or role one behind the other.
#
# Versions: openai 3.57.0.
# Expected: an id, a name and a role are whole in any chunk that has them: the helper sets them, and appends texts and
#   arguments only. It knows the difference: a repeated `type` or `index` is set.
# Happens: every other string is appended. Many servers repeat them: llama-cpp-python 0.3.36 writes id and name of a
#   function that was asked for by tool_choice into each of its chunks, LMDeploy the role. Tool `add` becomes `addadd`,
#   `call_1` becomes `call_1call_1`, and a plain reply of three chunks has the role `assistantassistantassistant`. No
#   exception: the event `…arguments.done` names a tool that nobody has, a strict tool's arguments are not parsed.
#   `create(stream=True)` shows the chunks as they are.
# Why it matters: a lookup of the tool by its name fails, or the call is dropped in silence. The final message is meant
#   to be appended to the conversation: its role and its call ids are then sent back to the provider, which never said
#   them. The length depends on how the server cut its chunks, so a test with one chunk is green.
# Seen 2026-11-30, Python 3.11
#   | id and name once: assistant, call_1, add, {"a":1}; done event: add, parsed {'a': 1}
#   | id and name in both chunks: assistant, call_1call_1, addadd, {"a":1}; done event: addadd, parsed None
#   | role once: assistant, Hello!
#   | role in all three chunks: assistantassistantassistant, Hello!
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

"$dir/venv/bin/python" -I - >"$dir/seen" <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
TOOL = {"type": "function", "function": {"name": "add", "strict": True, "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}}


class Provider(BaseHTTPRequestHandler):
    deltas = []

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, reason in self.deltas:
            chunk = CHUNK | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}", api_key="k", max_retries=0, timeout=10)


def show(title, deltas, reason):
    Provider.deltas = [(delta, None) for delta in deltas] + [({}, reason)]
    asked = [{"role": "user", "content": "Hi"}]
    with client.chat.completions.stream(model="m", messages=asked, tools=[TOOL]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        message = stream.get_final_completion().choices[0].message
    calls = [f"{call.id}, {call.function.name}, {call.function.arguments}" for call in message.tool_calls or ()]
    events = [f"; done event: {event.name}, parsed {event.parsed_arguments}" for event in done]
    print(f"{title}: {message.role}, {''.join(calls or [message.content])}{''.join(events)}")


def call(arguments, **more):
    named = {"id": "call_1", "type": "function"} if more else {}
    return {"tool_calls": [{"index": 0, **named, "function": {**more, "arguments": arguments}}]}


ROLE = {"role": "assistant"}
show("id and name once", [ROLE, call('{"a":', name="add"), call("1}")], "tool_calls")
show("id and name in both chunks", [ROLE, call('{"a":', name="add"), call("1}", name="add")], "tool_calls")
show("role once", [ROLE | {"content": "Hel"}, {"content": "lo"}, {"content": "!"}], "stop")
show("role in all three chunks", [ROLE | {"content": text} for text in ("Hel", "lo", "!")], "stop")
PYTHON

diff <(sed -n 's/^#   | //p' "$0") "$dir/seen" && cat "$dir/seen"
