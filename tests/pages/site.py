"""A server with demo data, whose PostgreSQL and Redis can be broken."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.databases import migrated_database
from tests.support.dependency_servers import Valkey, as_application
from tests.support.forked_python import run
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import VoiceAssistServer


@dataclass
class Site:
    server: VoiceAssistServer
    postgres: Proxy
    redis: Proxy
    valkey: Valkey  # behind `redis`
    database: str  # URL
    ids: dict[str, str]  # of the objects that tests.pages.data has created

    @property
    def url(self) -> str:
        return self.server.url

    def restore_postgres(self) -> None:
        """Stop breaking PostgreSQL, and wait until the server uses it again."""
        self.postgres.mode = "pass"
        assert succeeds_within(20, lambda: self.server.get("/ready")[0] == 200), self.server.log()

    def change(self, model: str, app: str = "core") -> str:
        """Return the path of the page of an object."""
        return f"/admin/{app}/{model}/{self.ids[model]}/change/"


@contextmanager
def running_site(servers: Servers, folder: Path, database: str, **environment: str) -> Iterator[Site]:
    """Start a server in a new database with demo data. It requires the second factor, as in production."""
    url = as_application(migrated_database(servers.postgres, database))
    done = run(["-m", "tests.pages.data"], {**os.environ, "DATABASE_URL": url}, timeout=120)
    assert done.returncode == 0, done.stderr
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder / "redis"))
        valkey.add_worker()
        postgres, redis = (stack.enter_context(Proxy(urlsplit(target).port or 0)) for target in (url, valkey.url))
        variables: dict[str, Any] = {
            "DJANGO_SETTINGS_MODULE": "tests.pages.settings",
            "DATABASE_URL": through(postgres, url),
            "REDIS_URL": through(redis, valkey.url),
            "ADMIN_MFA": "required",
            "DRAIN_SECONDS": "20",
            "WEB_CONCURRENCY": "1",
            "ALLOWED_HOSTS": "127.0.0.1",
            **environment,
        }
        server = stack.enter_context(VoiceAssistServer(**variables))
        yield Site(server, postgres, redis, valkey, url, json.loads(done.stdout.splitlines()[-1]))


def through(proxy: Proxy, url: str) -> str:
    """Return the URL of a dependency with the port of the proxy in front of it."""
    return url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/")
