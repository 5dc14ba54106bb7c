#!/usr/bin/env bash
# LiteLLM turns a provider's word for "this reply failed" into the finish reason `stop`.
#
# Versions: litellm 1.110.2. (The proxy of 1.108.7 streams `stop` for the first two rows as well.)
# Expected: a finish reason that says error becomes an exception, or passes as it is; `model_length` becomes `length`.
#   An unknown word is at least not turned into the one that means "whole".
# Happens: a stream that DeepSeek ends with `insufficient_system_resource`, OpenRouter or Mistral with `error`, GLM with
#   `network_error` ends with `stop`, and no field of any chunk holds the old word. `error` and `network_error` are
#   entries of LiteLLM's own map, so not even its log says a thing; unknown words are logged and become `stop` as well,
#   Mistral's `model_length` too. The route decides: `error` raises for openai/, `abort` for most, not for openrouter/.
#   Without streaming nothing raises at all, but the choice keeps the word in provider_specific_fields.
# Why it matters: behind this gateway a reply that broke in mid-sentence looks whole: it is stored, shown as complete
#   and, where replies are cached, served again. Nothing in the stream lets a client find out.
# Seen 2026-11-30, Python 3.11
#   | deepseek/ insufficient_system_resource: stream "The answ" stop, word lost; whole stop, word kept
#   | openrouter/ error: stream "The answ" stop, word lost; whole stop, word kept
#   | mistral/ error: stream "The answ" stop, word lost; whole stop, word kept
#   | mistral/ model_length: stream "The answ" stop, word lost; whole stop, word kept
#   | zai/ network_error: stream "The answ" stop, word lost; whole stop, word kept
#   | openai/ error: stream raises MidStreamFallbackError; whole stop, word kept
#   | deepseek/ abort: stream raises MidStreamFallbackError; whole stop, word kept
#   | openrouter/ abort: stream "The answ" stop, word lost; whole stop, word kept
#   | deepseek/ length: stream "The answ" length, word kept; whole length, word kept
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check litellm==1.110.2
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 LITELLM_LOCAL_MODEL_COST_MAP=True

"$dir/venv/bin/python" -I - >"$dir/seen" 2>"$dir/log" <<'PYTHON' || { cat "$dir/log" >&2; exit 1; }
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm

litellm.suppress_debug_info = True
HEAD = {"id": "1", "created": 1, "model": "m"}


class Provider(BaseHTTPRequestHandler):
    word = ""

    def do_POST(self):
        streamed = json.loads(self.rfile.read(int(self.headers["Content-Length"]))).get("stream")
        said = {"role": "assistant", "content": "The answ"}
        body = json.dumps(HEAD | {"object": "chat.completion", "choices": [
            {"index": 0, "message": said, "finish_reason": self.word}]})
        if streamed:
            body = "".join(f"data: {json.dumps(HEAD | {'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
                           for choice in ({"index": 0, "delta": said, "finish_reason": None},
                                          {"index": 0, "delta": {}, "finish_reason": self.word})) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()


def ask(route, **options):
    return litellm.completion(model=f"{route}m", api_base=f"http://127.0.0.1:{server.server_port}", api_key="k",
                              messages=[{"role": "user", "content": "Hi"}], max_retries=0, timeout=10, **options)


def is_kept(*replies):
    return "kept" if any(f'"{Provider.word}"' in reply.model_dump_json() for reply in replies) else "lost"


for row in ("deepseek/ insufficient_system_resource", "openrouter/ error", "mistral/ error", "mistral/ model_length",
            "zai/ network_error", "openai/ error", "deepseek/ abort", "openrouter/ abort", "deepseek/ length"):
    route, Provider.word = row.split()
    try:
        chunks = list(ask(route, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        stream = f'"{text}" {chunks[-1].choices[0].finish_reason}, word {is_kept(*chunks)}'
    except Exception as error:
        stream = f"raises {type(error).__name__}"
    whole = ask(route)
    print(f"{row}: stream {stream}; whole {whole.choices[0].finish_reason}, word {is_kept(whole)}")
PYTHON

diff <(sed -n 's/^#   | //p' "$0") "$dir/seen" && cat "$dir/seen"
