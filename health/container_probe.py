"""Exit with 0 if the server in this container answers a path with status 200.

    python -I -S health/container_probe.py PATH SECONDS

The health checks of the Dockerfile and docker-compose.yml run it. It imports neither Django nor anything else of ours,
because Python alone starts in 20 ms. It finds the server where BIND or BIND_FILE says, as the settings do.
"""

import os
import socket
import sys


def server() -> tuple[str, int]:
    """Return host and port to connect to."""
    bind = os.environ.get("BIND", "")
    if file := os.environ.get("BIND_FILE"):
        with open(file) as opened:
            bind = opened.read()
    host, _, port = (bind.strip() or "0.0.0.0:8000").rpartition(":")
    host = host.strip("[]")
    # A container may lack the address ::1 even though its server listens on [::]: "localhost" is tried as ::1 and as
    # 127.0.0.1.
    return {"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(host, host), int(port)


def is_ok(path: str, seconds: float) -> bool:
    with socket.create_connection(server(), seconds) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return connection.recv(12).endswith(b" 200")


if __name__ == "__main__":
    sys.exit(not is_ok(sys.argv[1], float(sys.argv[2])))
