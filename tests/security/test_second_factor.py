"""Attacks on the second factor and on the rules for passwords, through a server in production mode."""

import re
import threading
import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from tests.support.plugin import Servers
from tests.support.second_factor import CONTINUE, Person, code_of, secret_of, submit
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

PASSWORD = "correct horse battery"
ROOT_EMAIL = "root@example.org"
PHI = "PHI-chest-pain"


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    return database_with_staff(servers.postgres, "second_factor", ROOT_EMAIL, PASSWORD)


@pytest.fixture(scope="module")
def app(database: str) -> Iterator[VoiceAssistServer]:
    server = VoiceAssistServer(
        DATABASE_URL=database,
        VOICEASSIST_ENV="production",
        SECRET_KEY="only-for-the-tests-of-the-second-factor-3f9c1b7d52e84a60",
        ALLOWED_HOSTS="127.0.0.1",
        HTTPS_ONLY="false",
        WEB_CONCURRENCY="2",
    )
    with server:
        yield server


@pytest.fixture(scope="module")
def root(app: VoiceAssistServer) -> Person:
    return Person(app.url, ROOT_EMAIL, PASSWORD)


def test_x(app: VoiceAssistServer, root: Person) -> None:
    client = root.browser()
    r = root.enter_password(client)
    print(r.status_code, r.headers)
    print(client.get(CONTINUE).text)
    root.enrol(client)
    r = client.get("/admin/second-factor/")
    print(r.text)
    print(app.log()[-3000:])
    assert 0
