"""Somebody who reads or writes Redis, or reads a copy of the session table, gets neither a login nor code executed."""

import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as redis_py

from tests.security.production import ADMIN, STAFF, Database, create_database, environment, logged_in, post, reveal_path
from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.reveal import REASON
from tests.support.voiceassist_server import VoiceAssistServer

FORMER_KEY = "voiceassist:1:django.contrib.sessions.cached_db"  # of Django's engine, followed by the cookie's value
MAX_GUESSES = 2_000


class RunsCode:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


@pytest.fixture(scope="module")
def database(servers: Servers) -> Database:
    return create_database(servers.postgres, "redis_trust")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), options=("--appendfsync", "always")) as server:
        yield server


@pytest.fixture(scope="module")
def redis(valkey: Valkey) -> Iterator[Any]:
    """Return a client of somebody who has the password of Redis."""
    with redis_py.Redis.from_url(valkey.url) as client:
        yield client


@pytest.fixture(scope="module")
def app(database: Database, valkey: Valkey) -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(**environment(database, valkey.url)) as app:
        yield app


@pytest.fixture
def admin(app: VoiceAssistServer) -> Iterator[httpx.Client]:
    with logged_in(app, ADMIN) as client:
        yield client


@pytest.fixture
def staff(app: VoiceAssistServer) -> Iterator[httpx.Client]:
    with logged_in(app, STAFF) as client:
        yield client


def entry_of(client: httpx.Client, redis: Any) -> bytes:
    """Return the name of the entry that a request of the client stores."""
    redis.flushall()
    assert client.get("/admin/").status_code == 200
    (name,) = redis.keys()
    return bytes(name)


def is_logged_in(client: httpx.Client) -> bool:
    status = client.get("/admin/").status_code
    assert status in (200, 302)
    return status == 200


def test_planted_pickle_is_not_executed(
    admin: httpx.Client, app: VoiceAssistServer, redis: Any, tmp_path: Path
) -> None:
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "control")))
    assert (tmp_path / "control").exists()
    payload = pickle.dumps(RunsCode(tmp_path / "executed"))
    cookie = "a" * 32
    names = [FORMER_KEY + cookie, f"{FORMER_KEY}{admin.cookies['sessionid']}", entry_of(admin, redis)]
    with httpx.Client(base_url=app.url, cookies={"sessionid": cookie}, timeout=30) as anonymous:
        for client in (anonymous, admin):
            for method, expected in (("GET", (200, 302)), ("POST", (302, 403))):  # 403: no CSRF token
                for name in names:
                    redis.set(name, payload)
                assert client.request(method, "/admin/").status_code in expected
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "value",
    [b"{", b"\xff" * 1000, b'"a:b:c"', b'{"_auth_user_id": "1"}', b"[" * 1_000_000, b'"%s"' % (b"x" * 50_000_000)],
    ids=["malformed", "not UTF-8", "unsigned", "dict", "nested", "50 MB"],
)
def test_planted_values_are_ignored(admin: httpx.Client, redis: Any, value: bytes) -> None:
    name = entry_of(admin, redis)
    redis.set(name, value)
    assert is_logged_in(admin)
    assert redis.strlen(name) < 1_000  # replaced by a valid entry
    redis.delete(name)
    redis.lpush(name, "of another type")
    assert is_logged_in(admin)


def test_what_redis_and_the_table_contain_opens_no_login(
    app: VoiceAssistServer, database: Database, valkey: Valkey, redis: Any
) -> None:
    redis.flushall()
    with redis.monitor() as monitor, logged_in(app, ADMIN) as client:
        assert post(client, reveal_path(database), **REASON).status_code == 200
        redis.echo("end")
        seen = ""
        while not seen.endswith("ECHO end"):
            seen += "\n" + monitor.next_command()["command"]
        redis.save()
        names = redis.keys()
        leaked = [seen.encode(), *names, *map(redis.get, names)]
        leaked += [file.read_bytes() for file in valkey.folder.rglob("*") if file.is_file()]
        leaked += ["\n".join(row).encode() for row in _session_rows(database)]
        text = b"\n".join(leaked)
        cookie = client.cookies["sessionid"]
        assert (valkey.folder / "dump.rdb").exists()
        assert text.count(names[0].rpartition(b":")[2]) >= 4  # MONITOR, the key, the file and the table
        assert cookie.encode() not in text
        guesses = set(re.findall(rb"[\w+/=.-]{16,}", text)) | set(re.findall(rb"[a-z0-9]{32,40}", text))
        assert 3 < len(guesses) < MAX_GUESSES
        with httpx.Client(base_url=app.url, timeout=30) as thief:
            for guess in guesses:
                for value in {guess[:32], guess[:40], guess[:4_000]}:
                    response = thief.get("/admin/", headers={"Cookie": f"sessionid={value.decode()}"})
                    assert response.status_code == 302, value
        assert is_logged_in(client)


def _session_rows(database: Database) -> list[tuple[str, str]]:
    return database.execute("SELECT session_key, session_data FROM django_session")


def test_tampered_and_copied_entries_open_no_login(
    admin: httpx.Client, staff: httpx.Client, redis: Any, database: Database
) -> None:
    theirs = entry_of(admin, redis)
    value = redis.get(theirs)
    mine = entry_of(staff, redis)
    redis.set(mine, value)  # the administrator's session under my cookie
    assert ADMIN not in staff.get("/admin/core/user/").text
    assert post(staff, reveal_path(database), **REASON).status_code == 403
    redis.set(mine, value)
    database.execute("DELETE FROM django_session WHERE session_key = %s", mine.decode().rpartition(":")[2])
    assert not is_logged_in(staff)
    for position in (1, len(value) // 2, len(value) - 2):
        changed = value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]
        redis.set(theirs, changed)
        assert is_logged_in(admin)  # from the database
        assert redis.get(theirs) != changed


def test_copied_row_opens_no_login(admin: httpx.Client, staff: httpx.Client, redis: Any, database: Database) -> None:
    theirs, mine = (entry_of(client, redis).decode().rpartition(":")[2] for client in (admin, staff))
    redis.flushall()
    database.execute(
        "UPDATE django_session SET session_data = (SELECT session_data FROM django_session WHERE session_key = %s)"
        " WHERE session_key = %s",
        theirs,
        mine,
    )
    assert not is_logged_in(staff)
    assert is_logged_in(admin)
