#!/bin/bash
# What the Lambda Web Adapter starts in place of a handler (AWS_LAMBDA_EXEC_WRAPPER=/opt/bootstrap).
# Only Lambda's own bootstrap knows the layer's folder, so it is named here. The adapter reuses its
# connection to uvicorn, so uvicorn must keep it longer. A request line holds a session id: no access log.
set -euo pipefail
cd "$(dirname "$0")"
export PYTHONPATH="/opt/python${PYTHONPATH:+:$PYTHONPATH}:${LAMBDA_RUNTIME_DIR:-/var/runtime}"
exec python -m uvicorn app:handler \
  --loop asyncio --http parley.http_server.protocol:HttpProtocol --host 127.0.0.1 --port "${AWS_LWA_PORT:-8080}" \
  --timeout-keep-alive 75 --no-access-log --log-level warning --no-server-header
# What the Lambda Web Adapter starts in place of a handler. Only Lambda's own bootstrap knows the layer's folder.
# The adapter reuses its connection, so uvicorn must keep it longer. A request line holds a session id: no access log.
PYTHONPATH="/opt/python:$PYTHONPATH:$LAMBDA_RUNTIME_DIR" exec python -m uvicorn app:app --loop asyncio \
  --http parley.http_server.protocol:HttpProtocol --port "${AWS_LWA_PORT:-8080}" --timeout-keep-alive 75 \
  --no-access-log --log-level warning --no-server-header
