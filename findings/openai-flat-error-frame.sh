#!/usr/bin/env bash
# OpenAI's SDK takes an error object inside a stream for a chunk, unless it lies in a field `error`.
#
# Versions: openai 3.57.0.
# Expected: a server of this wire reports a death in mid-stream by {"error": {…}} or by the error object itself,
#   {"object": "error", "message": …, "code": …} (earlier FastDeploy, and then [DONE]; LiteLLM expects it of SageMaker).
#   It says what it is, so the SDK raises APIError for both.
# Happens: it raises for the first only. The second is yielded as a ChatCompletionChunk with `choices` None. Every loop
#   has `if chunk.choices`, as the usage comes in a chunk without any: it ends as after a whole reply. The helper
#   `.stream()` drops the frame itself, there is no event for it, not even `chunk`, and its final completion is the half
#   text with finish_reason None: the same as when a stream was merely cut. Sync and async do the same.
# Why it matters: the message and the code, which tell an overload (try again) from a bad request (do not), are thrown
#   away, and who does not insist on a finish reason stores half a reply as a whole one.
# Seen 2026-11-30, Python 3.11 (an async client that did otherwise would be a second half of its line)
#   | flat, loop: "The answ", no exception; last chunk: choices None, engine died, 500
#   | flat, stream(): chunk content.delta; final "The answ", finish_reason None
#   | nested, loop: APIError engine died
#   | nested, stream(): APIError engine died
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

"$dir/venv/bin/python" -I - >"$dir/seen" <<'PYTHON'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

FIRST = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
    {"index": 0, "delta": {"role": "assistant", "content": "The answ"}, "finish_reason": None}]}
FLAT = {"object": "error", "message": "engine died", "type": "InternalServerError", "param": None, "code": 500}
ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Provider(BaseHTTPRequestHandler):
    error = {}

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = f"data: {json.dumps(FIRST)}\n\ndata: {json.dumps(self.error)}\n\ndata: [DONE]\n\n"
        self.wfile.write(f"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{body}".encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {"base_url": f"http://127.0.0.1:{server.server_port}", "api_key": "k", "max_retries": 0, "timeout": 10}


async def sync(title):
    completions = openai.OpenAI(**options).chat.completions
    if title == "loop":
        return list(completions.create(stream=True, **ASK)), None
    with completions.stream(**ASK) as stream:
        return list(stream), stream.get_final_completion()


async def not_sync(title):
    async with openai.AsyncOpenAI(**options) as client:
        if title == "loop":
            return [chunk async for chunk in await client.chat.completions.create(stream=True, **ASK)], None
        async with client.chat.completions.stream(**ASK) as stream:
            return [event async for event in stream], await stream.get_final_completion()


def describe(items, final):
    if final:
        text, reason = final.choices[0].message.content, final.choices[0].finish_reason
        return f'{" ".join(event.type for event in items)}; final "{text}", finish_reason {reason}'
    text, last = "".join(chunk.choices[0].delta.content for chunk in items if chunk.choices), items[-1]
    return f'"{text}", no exception; last chunk: choices {last.choices}, {last.message}, {last.code}'


for shape, Provider.error in ("flat", FLAT), ("nested", {"error": FLAT}):
    for title in "loop", "stream()":
        outcomes = []
        for way in sync, not_sync:
            try:
                outcomes.append(describe(*asyncio.run(way(title))))
            except openai.APIError as error:
                outcomes.append(f"{type(error).__name__} {error}")
        print(f"{shape}, {title}: {' / '.join(dict.fromkeys(outcomes))}")
PYTHON

diff <(sed -n 's/^#   | //p' "$0") "$dir/seen" && cat "$dir/seen"
