"""An issuer for the tests: real keys, the tokens they sign, and a server that publishes them."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example"
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)
EC = ec.generate_private_key(ec.SECP256R1())
EC384 = ec.generate_private_key(ec.SECP384R1())


def published(key: Any, kid: str, **more: str) -> dict[str, Any]:
    algorithm: Any = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig", **more}


class KeyServer:
    """Serves a key set on loopback, counts who asks, and can be away, slow or wrong."""

    def __init__(self) -> None:
        self.keys = [
            published(RSA, "rsa"),
            published(EC, "ec"),
            published(WEAK, "weak"),
            published(EC384, "ec384"),
            published(OTHER, "encrypting", use="enc"),
            {"kty": "oct", "kid": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"},
        ]
        self.asked = 0
        self.status = 200
        self.delay = 0.0
        # While this is not set, whoever asks waits.
        self.held = threading.Event()
        self.held.set()
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                time.sleep(server.delay)
                server.held.wait(60)
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                # One that was asked too slowly, or says too much, is hung up on.
                with contextlib.suppress(OSError):
                    self.wfile.write(server.body or json.dumps({"keys": server.keys}).encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/keys"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": "parley", "sub": "user-1", "iat": now, "exp": now + 300} | changes
    return {name: value for name, value in whole.items() if value is not None}


def token(
    key: Any = RSA, kid: str | None = "rsa", alg: str = "RS256", header: Any = None, **changes: Any
) -> str:
    names = ({} if kid is None else {"kid": kid}) | (header or {})
    return jwt.encode(claims(**changes), key, algorithm=alg, headers=names)
