#!/usr/bin/env bash
# uvloop calls a reader once, and never again, when its socket has a pending error; what it left unread stays unread.
#
# Versions: uvloop 0.23.0, Linux.
# Expected: `loop.add_reader` is level-triggered, as in asyncio: the callback runs as long as there is something to
#   read, the end of the stream included. A callback may so read a part and return.
# Happens: with an error pending on the socket (the peer closed, and was sent something after that, so it answered with
#   a reset), uvloop calls the reader one time and takes the socket out of its poll. The rest of what the peer said and
#   the end of the stream are never told, though recv() would return them; no exception handler hears of it either.
# Why it matters: libpq reads once for each call of PQconsumeInput. A backend that is terminated while its client sends
#   leaves its last message and the end of the stream; the message is read, the end is not, and the statement waits for
#   its timeout although the connection is gone. Whoever drives libpq, or any library with a socket of its own, by
#   add_reader has to read such a socket to its end in one call.
# Seen 2026-11-30, Python 3.11
#   | asyncio, no error: read last, wor, ds, end
#   | asyncio, pending error: read last, wor, ds, end
#   | uvloop, no error: read last, wor, ds, end
#   | uvloop, pending error: read last; not called again; left to read: wor, ds, end
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check uvloop==0.23.0

"$dir/venv/bin/python" -I - >"$dir/seen" <<'PYTHON'
import asyncio
import socket
import time

import uvloop


def parts(client):
    """Read by fours until the end."""
    while True:
        data = client.recv(4)
        yield data.decode().strip() or "end"
        if not data:
            return


async def read(*, error):
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    client.setblocking(False)
    peer.sendall(b"last words")
    peer.close()
    if error:
        client.send(b"too late")
        time.sleep(0.2)  # the reset has come before the loop looks
    loop = asyncio.get_running_loop()
    seen, over, reading = [], loop.create_future(), parts(client)

    def readable():
        seen.append(next(reading))
        if seen[-1] == "end":
            loop.remove_reader(client)
            over.set_result(None)

    loop.add_reader(client, readable)
    await asyncio.wait([over], timeout=3)
    told = f"read {', '.join(seen)}"
    return told if over.done() else f"{told}; not called again; left to read: {', '.join(reading)}"


for loop in asyncio, uvloop:
    for error in False, True:
        with asyncio.Runner(loop_factory=loop.new_event_loop) as runner:
            state = "pending error" if error else "no error"
            print(f"{loop.__name__}, {state}: {runner.run(read(error=error))}")
PYTHON

diff <(sed -n 's/^#   | //p' "$0") "$dir/seen" && cat "$dir/seen"
