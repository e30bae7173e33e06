"""A collector of traces: takes OTLP/HTTP and keeps it. It can also take a request and say nothing."""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if (
    "opentelemetry" in sys.modules and not sys.modules["opentelemetry"]
):  # kept out by the settings, for this traces nothing
    del sys.modules["opentelemetry"]

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Handler(BaseHTTPRequestHandler):
    server: "Collector"

    def log_message(self, *args: object) -> None: ...

    def do_POST(self) -> None:  # noqa: N802  # the name that http.server calls
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.swallowed += 1
        if self.server.silent:
            self.server.closing.wait()
            return
        self.server.bodies.append(self.path.encode() + bytes(self.headers) + body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for of_scope in of_resource.scope_spans:
                self.server.spans.extend(of_scope.spans)
            self.server.resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
        self.send_response(200)
        self.end_headers()


class Collector(ThreadingHTTPServer):
    """Used as a context manager."""

    daemon_threads = True

    def __init__(self, *, silent: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.silent = silent
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self.swallowed = 0
        self.closing = threading.Event()

    def __enter__(self) -> "Collector":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def trace(self, trace_id: str) -> list[Span]:
        """Returns the spans of a trace when its request's, which comes last, is here."""
        end = time.monotonic() + 15
        while True:
            found = [span for span in self.spans if span.trace_id.hex() == trace_id]
            if any(span.kind == Span.SPAN_KIND_SERVER for span in found):
                return sorted(found, key=lambda span: span.end_time_unix_nano)
            assert time.monotonic() < end, found
            time.sleep(0.05)
