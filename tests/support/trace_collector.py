"""A trace collector that accepts OTLP/HTTP and stores the spans. A silent one accepts requests but never responds."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.polling import succeeds_within


class Handler(BaseHTTPRequestHandler):
    server: "Collector"

    def log_message(self, *args: object) -> None: ...

    def do_POST(self) -> None:  # noqa: N802  # http.server calls it by this name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received += 1
        if self.server.silent:
            self.server.closing.wait()
            return
        self.server.bodies.append(self.path.encode() + bytes(self.headers) + body)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope_spans in resource_spans.scope_spans:
                self.server.spans.extend(scope_spans.spans)
            self.server.resource = {a.key: a.value.string_value for a in resource_spans.resource.attributes}
        self.send_response(200)
        self.end_headers()


class Collector(ThreadingHTTPServer):
    """Use as a context manager."""

    daemon_threads = True

    def __init__(self, *, silent: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.silent = silent
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self.received = 0  # requests
        self.closing = threading.Event()

    def __enter__(self) -> "Collector":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace, after the request's span, which is the last one, has arrived."""

        def found() -> list[Span]:
            return [span for span in self.spans if span.trace_id.hex() == trace_id]

        assert succeeds_within(15, lambda: any(span.kind == Span.SPAN_KIND_SERVER for span in found())), found()
        return sorted(found(), key=lambda span: span.end_time_unix_nano)
