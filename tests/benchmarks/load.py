"""A load generator with keep-alive connections, each of which sends the next request after every response.

    python -m tests.benchmarks.load PORT PATH CONNECTIONS SECONDS

Prints one JSON object: `rate` in responses per second, `p50` and `p99` in seconds, `failed` (not 200). It runs in its
own process, so that it does not share the interpreter of the measured server.
"""

import asyncio
import json
import sys
import time


async def send_requests(port: int, request: bytes, deadline: float, times: list[float]) -> int:
    """Append the time of each response to `times`, and return how many were not 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    failed = 0
    while time.perf_counter() < deadline:
        sent_at = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        else:
            await reader.readexactly(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
        times.append(time.perf_counter() - sent_at)
        failed += not head.startswith(b"HTTP/1.1 200")
        if b"connection: close" in lower:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return failed


async def load(port: int, path: str, connections: int, seconds: float) -> dict[str, float]:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n".encode()
    times: list[float] = []
    started_at = time.perf_counter()
    deadline = started_at + seconds
    failed = await asyncio.gather(*(send_requests(port, request, deadline, times) for _ in range(connections)))
    duration = time.perf_counter() - started_at
    times.sort()
    return {
        "rate": len(times) / duration,
        "p50": times[len(times) // 2],
        "p99": times[int(len(times) * 0.99)],
        "failed": sum(failed),
    }


if __name__ == "__main__":
    _, port, path, connections, seconds = sys.argv
    print(json.dumps(asyncio.run(load(int(port), path, int(connections), float(seconds)))))
