"""A killed PostgreSQL server leaves no shared memory behind, of which the system would run out."""

from pathlib import Path

from tests.support.dependency_servers import Postgres
from tests.support.shared_memory import segment_of


def segments() -> set[int]:
    return {int(line.split()[1]) for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def test_killed_server_leaves_no_segment(tmp_path: Path) -> None:
    server = Postgres(tmp_path)
    for _ in range(2):  # the second server uses the data that the first one has left
        server.start()
        segment = segment_of(server.data)
        assert segment in segments()
        server.kill()
        assert segment not in segments()
