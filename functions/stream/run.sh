#!/bin/bash
# What the Lambda Web Adapter starts in place of a handler. Only Lambda's own bootstrap knows the layer's folder.
# The adapter reuses its connection, so uvicorn must keep it longer. A request line holds a session id: no access log.
PYTHONPATH="/opt/python:$PYTHONPATH:$LAMBDA_RUNTIME_DIR" exec python -m uvicorn app:handler --loop asyncio \
  --http parley.http_server.protocol:HttpProtocol --port "${AWS_LWA_PORT:-8080}" --timeout-keep-alive 75 \
  --no-access-log --log-level warning --no-server-header
