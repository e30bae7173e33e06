"""A server that refuses every connection to PostgreSQL with a given error, such as a translated one.

It is a fake, because PostgreSQL's wheel has no translations and no TLS.
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass

from tests.support.tcp_server import TcpServer

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_AUTHENTICATION_OK = b"R" + struct.pack("!II", 8, 0)


@dataclass
class Refusal:
    sqlstate: str
    message: str
    severity: str = "FATAL"
    encoding: str = "utf-8"
    is_logged_in: bool = False  # PostgreSQL checks the database and connection limits after the password

    def encode(self) -> bytes:
        fields = {"S": self.severity, "V": "FATAL", "C": self.sqlstate, "M": self.message}
        fields |= {"F": "postinit.c", "L": "948", "R": "InitPostgres"}
        body = b"".join(f"{name}{value}\0".encode(self.encoding) for name, value in fields.items()) + b"\0"
        return (_AUTHENTICATION_OK if self.is_logged_in else b"") + b"E" + struct.pack("!I", len(body) + 4) + body


class RefusingPostgres(TcpServer):
    """Sends `refusal` over TLS, and `plain_refusal` without. TLS is rejected if there is no `context`."""

    def __init__(self, refusal: Refusal, plain_refusal: Refusal | None = None, context: ssl.SSLContext | None = None):
        self._refusal, self._plain_refusal, self._context = refusal, plain_refusal or refusal, context
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        client.settimeout(5)
        with suppress(struct.error):  # the client disconnected
            length, code = struct.unpack("!II", client.recv(8))
            while code in (_SSL_REQUEST, _GSS_REQUEST):
                if code == _SSL_REQUEST and self._context:
                    client.sendall(b"S")
                    client = self._context.wrap_socket(client, server_side=True)
                else:
                    client.sendall(b"N")
                length, code = struct.unpack("!II", client.recv(8))
            client.recv(length - 8)
            refusal = self._refusal if isinstance(client, ssl.SSLSocket) else self._plain_refusal
            with client:
                client.sendall(refusal.encode())
                client.recv(1)  # waits until the client closes
