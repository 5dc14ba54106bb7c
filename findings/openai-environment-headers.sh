#!/usr/bin/env bash
# OpenAI's SDK sends OpenAI's own headers of the environment to every host it is pointed at.
#
# Versions: openai 3.57.0.
# Expected: OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS belong to OpenAI's account. A client that got
#   another base_url and another api_key talks to somebody else, so they stay at home; `organization=None` means "none".
# Happens: all three go to the other host, without a warning, sync and async. `organization=None` means "look into the
#   environment", `""` sends an empty header. An `Authorization` among the custom headers beats the api_key that was
#   passed in code: the second provider gets the first one's key. Only headers that are named one by one in
#   `default_headers` (as Omit, or with a value) win over the environment.
# Why it matters: one process (one Lambda function has one environment) serves several providers of the same wire.
#   Variables that were set for one of them show its account and its secrets to all the others.
# Seen 2026-11-30, Python 3.11: what provider B received, from a process with the variables of provider A
#   | api_key only: Bearer key-of-b, org-of-a, proj_of_a, token-of-a
#   | the same, async: Bearer key-of-b, org-of-a, proj_of_a, token-of-a
#   | organization and project None: Bearer key-of-b, org-of-a, proj_of_a, token-of-a
#   | organization and project "": Bearer key-of-b, "", "", token-of-a
#   | Authorization in the custom headers: Bearer key-of-a, org-of-a, proj_of_a, -
#   | the same, default_headers names all: Bearer key-of-b, -, -, -
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

"$dir/venv/bin/python" -I - >"$dir/seen" <<'PYTHON'
import asyncio
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

REPLY = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}]}
WATCHED = "Authorization", "OpenAI-Organization", "OpenAI-Project", "X-Gateway-Token"
received = []


class ProviderB(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        received.append([self.headers.get(name, "-") or '""' for name in WATCHED])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(REPLY).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), ProviderB)
threading.Thread(target=server.serve_forever, daemon=True).start()
ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def show(title, kind=openai.OpenAI, **options):
    client = kind(base_url=f"http://127.0.0.1:{server.server_port}", api_key="key-of-b", max_retries=0, timeout=10,
                  **options)
    asked = client.chat.completions.create(**ASK)
    if kind is openai.AsyncOpenAI:
        asyncio.run(asked)
    print(f"{title}: {', '.join(received[-1])}")


os.environ |= {"OPENAI_ORG_ID": "org-of-a", "OPENAI_PROJECT_ID": "proj_of_a",
               "OPENAI_CUSTOM_HEADERS": "X-Gateway-Token: token-of-a"}
show("api_key only")
show("the same, async", openai.AsyncOpenAI)
show("organization and project None", organization=None, project=None)
show('organization and project ""', organization="", project="")
os.environ["OPENAI_CUSTOM_HEADERS"] = "Authorization: Bearer key-of-a"
show("Authorization in the custom headers")
show("the same, default_headers names all", default_headers={
    "Authorization": "Bearer key-of-b", "OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()})
PYTHON

diff <(sed -n 's/^#   | //p' "$0") "$dir/seen" && cat "$dir/seen"
