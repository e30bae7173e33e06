"""A login that has ended stays ended: on every server, and while Redis is away or has outdated entries."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.security.production import (
    ADMIN,
    PHI,
    STAFF,
    Database,
    Thief,
    create_database,
    environment,
    logged_in,
    post,
    reveal_path,
)
from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.proxy import Proxy
from tests.support.reveal import REASON
from tests.support.voiceassist_server import VoiceAssistServer

Apps = tuple[VoiceAssistServer, VoiceAssistServer]


@pytest.fixture(scope="module")
def database(servers: Servers) -> Database:
    return create_database(servers.postgres, "ended_logins")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def redis(valkey: Valkey) -> Iterator[Proxy]:
    """Yield a proxy in front of the Redis of both servers."""
    with Proxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def apps(database: Database, valkey: Valkey, redis: Proxy) -> Iterator[Apps]:
    url = valkey.url.replace(f":{valkey.port}/", f":{redis.port}/")
    settings = {**environment(database, url), "WEB_CONCURRENCY": "1"}
    with VoiceAssistServer(**settings) as first, VoiceAssistServer(**settings) as second:
        yield first, second


@pytest.fixture(autouse=True)
def redis_is_back(redis: Proxy) -> Iterator[None]:
    yield
    redis.mode = "pass"


def get(client: httpx.Client | Thief) -> int:
    return client.get("/admin/").status_code


def is_refused(thief: Thief, database: Database) -> bool:
    response = thief.post(reveal_path(database), **REASON)
    assert PHI not in response.text
    return response.status_code == 302 and "/admin/login/" in response.headers["Location"]


@pytest.mark.parametrize("mode", ["refuse", "silent"])
def test_logout_while_redis_is_away(apps: Apps, database: Database, redis: Proxy, mode: str) -> None:
    with logged_in(apps[0], ADMIN) as client:
        thieves = [Thief(client, app) for app in apps]
        assert all(PHI in thief.post(reveal_path(database), **REASON).text for thief in thieves)
        assert [get(thief) for thief in thieves] == [200, 200]  # so that Redis has the login
        redis.mode = mode
        assert post(client, "/admin/logout/").status_code == 200
        redis.mode = "pass"
        # Redis has not deleted it. For MAX_CACHE_AGE seconds it opens pages, which mask PHI, except where a worker has
        # just noticed that Redis hangs and reads the database.
        page = thieves[0].get(f"/admin/core/message/{database.message_id}/change/")
        assert page.status_code in ((200,) if mode == "refuse" else (200, 302))
        assert PHI not in page.text
        for thief in thieves:
            assert is_refused(thief, database)
            assert "/admin/login/" in thief.post("/admin/core/user/").headers["Location"]


def end_by_button(admin: httpx.Client, database: Database, user_id: str) -> None:
    assert post(admin, f"/admin/core/user/{user_id}/end-logins/").status_code == 302


def end_by_action(admin: httpx.Client, database: Database, user_id: str) -> None:
    form = {"action": "end_logins_of_selected", "_selected_action": user_id}
    assert post(admin, "/admin/core/user/", **form).status_code == 302


def deactivate_and_activate(admin: httpx.Client, database: Database, user_id: str) -> None:
    for is_active in ("false", "true"):
        database.execute(f"UPDATE users SET is_active = {is_active} WHERE id = %s", user_id)


def take_and_give_staff_access(admin: httpx.Client, database: Database, user_id: str) -> None:
    for is_staff in ("false", "true"):
        database.execute(f"UPDATE users SET is_staff = {is_staff} WHERE id = %s", user_id)


@pytest.mark.parametrize(
    ("end", "mode"),
    [
        (end_by_action, "pass"),
        (end_by_button, "refuse"),
        (deactivate_and_activate, "pass"),
        (deactivate_and_activate, "silent"),
        (take_and_give_staff_access, "refuse"),
    ],
)
def test_logins_end_at_once_on_every_server(
    apps: Apps, database: Database, redis: Proxy, end: Callable[[httpx.Client, Database, str], None], mode: str
) -> None:
    ((user_id,),) = database.execute("SELECT id::text FROM users WHERE email = %s", STAFF)
    database.execute("DELETE FROM axes_accessattempt")
    with logged_in(apps[0], ADMIN) as admin, logged_in(apps[0], STAFF) as staff:
        clients = [Thief(staff, app) for app in apps]
        assert [get(client) for client in clients] == [200, 200]
        redis.mode = mode
        end(admin, database, user_id)
        assert [get(client) for client in clients] == [302, 302]
        assert all(is_refused(client, database) for client in clients)
        redis.mode = "pass"
        assert [get(client) for client in clients] == [302, 302]
        assert get(admin) == 200
        events = "SELECT count(*) FROM audit_events WHERE action = 'logoff' AND actor_id = %s"
        assert database.execute(events, user_id)[0][0] >= 1
    with logged_in(apps[1], STAFF) as staff:
        assert get(staff) == 200
