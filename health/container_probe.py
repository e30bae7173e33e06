"""Exit with 0 if the server in this container responds to a path with status 200.

    python -I -S health/container_probe.py PATH SECONDS

The health checks of the Dockerfile and docker-compose.yml run it. It imports only the standard library, because bare
Python starts in 20 ms. Like the settings, it reads BIND and BIND_FILE.
"""

import os
import socket
import sys


def server_address() -> tuple[str, int]:
    """Return the host and port to connect to."""
    bind = os.environ.get("BIND", "")
    if file := os.environ.get("BIND_FILE"):
        with open(file) as stream:
            bind = stream.read()
    host, _, port = (bind.strip().strip("\ufeff").strip() or "0.0.0.0:8000").rpartition(":")
    host = host.strip("[]")
    # "localhost" also tries 127.0.0.1, because a container whose server listens on [::] may lack ::1.
    return {"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(host, host), int(port)


def is_ok(path: str, seconds: float) -> bool:
    """Return whether a GET of `path` returns status 200. Raises OSError if a socket operation takes over `seconds`."""
    with socket.create_connection(server_address(), seconds) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return connection.recv(12).endswith(b" 200")


if __name__ == "__main__":
    sys.exit(not is_ok(sys.argv[1], float(sys.argv[2])))
