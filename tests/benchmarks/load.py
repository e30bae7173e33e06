"""A load generator: keep-alive connections that each ask again as soon as they are answered.

    python -m tests.benchmarks.load PORT PATH CONNECTIONS SECONDS

Prints one JSON object: `rate` in answers a second, `p50` and `p99` in seconds, `failed` (not 200). It runs as a process
of its own, the same for every subject.
"""

import asyncio
import json
import sys
import time


async def connection(port: int, request: bytes, end: float, times: list[float]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    failed = 0
    while time.perf_counter() < end:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        else:
            await reader.readexactly(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
        times.append(time.perf_counter() - began)
        failed += not head.startswith(b"HTTP/1.1 200")
        if b"connection: close" in lower:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return failed


async def load(port: int, path: str, connections: int, seconds: float) -> dict[str, float]:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n".encode()
    times: list[float] = []
    began = time.perf_counter()
    failed = await asyncio.gather(*(connection(port, request, began + seconds, times) for _ in range(connections)))
    took = time.perf_counter() - began
    times.sort()
    return {
        "rate": len(times) / took,
        "p50": times[len(times) // 2],
        "p99": times[int(len(times) * 0.99)],
        "failed": sum(failed),
    }


if __name__ == "__main__":
    _, port, path, connections, seconds = sys.argv
    print(json.dumps(asyncio.run(load(int(port), path, int(connections), float(seconds)))))
