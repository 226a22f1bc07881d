"""An issuer of tokens: keys in the forms in which they are given away, and a server that publishes them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm


def pem(private: Any) -> str:
    public = private.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form).decode()


def jwk(private: Any, kid: str | None = None, **members: Any) -> dict[str, Any]:
    family: Any = OKPAlgorithm
    if isinstance(private, rsa.RSAPrivateKey):
        family = RSAAlgorithm
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        family = ECAlgorithm
    found = json.loads(family.to_jwk(private.public_key()))
    found.pop("key_ops", None)
    return found | ({"kid": kid} if kid else {}) | members


def jwks(*members: Any) -> bytes:
    return json.dumps({"keys": members}).encode()


class Issuer:
    """Publishes what it is told to, on loopback. `answer` sees the request handler; what it returns is sent."""

    def __init__(self, *published: Mapping[str, Any]) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], bytes | None] = lambda _: jwks(*published)
        self.asked = 0
        self.let_go = threading.Event()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = issuer.answer(self)
                if body is not None:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/keys"

    def hangs(self, _: BaseHTTPRequestHandler) -> None:
        self.let_go.wait(10)

    def fails(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(500)


@contextlib.contextmanager
def running_issuer(*published: Mapping[str, Any]) -> Iterator[Issuer]:
    one = Issuer(*published)
    serving = threading.Thread(target=one.server.serve_forever, args=(0.01,), daemon=True)
    serving.start()
    try:
        yield one
    finally:
        one.let_go.set()
        one.server.shutdown()
        one.server.server_close()
