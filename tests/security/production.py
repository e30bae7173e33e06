"""A production server's environment, and a database with two staff users and a message that contains PHI."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
from psycopg import sql

from core.models import Message, Session, User
from tests.support.databases import database_with_staff, hash_of, insert
from tests.support.dependency_servers import Postgres
from tests.support.voiceassist_server import VoiceAssistServer

PASSWORD = "correct horse battery"
ADMIN, STAFF = "admin@example.org", "staff@example.org"
PHI = "PHI of a patient"


@dataclass(frozen=True)
class Database:
    url: str
    message_id: str

    def execute(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql.SQL(statement), values)
            return cursor.fetchall() if cursor.description else []


def create_database(postgres: Postgres, name: str) -> Database:
    url = database_with_staff(postgres, name, ADMIN, PASSWORD)
    user = User(email=STAFF, password=hash_of(PASSWORD), is_staff=True)
    session = Session(user=user)
    message = Message(session=session, role="user", content=PHI)
    insert(url, user, session, message)
    return Database(url, str(message.pk))


def environment(database: Database, redis_url: str) -> dict[str, Any]:
    return {
        "VOICEASSIST_ENV": "production",
        "SECRET_KEY": "only-for-tests: 7QpZ2x9vLr4mKs8dTb1nWc6yHf3gJe5aUi0oPq",
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "HTTPS_ONLY": "false",
        "ADMIN_MFA": "optional",
        "HEALTH_MAX_AGE": "1",
        "DRAIN_SECONDS": "0",
        "DATABASE_URL": database.url,
        "REDIS_URL": redis_url,
    }


def logged_in(app: VoiceAssistServer, email: str) -> closing[httpx.Client]:
    return closing(app.log_in(email, PASSWORD))


class Thief:
    """Sends the cookies that a client had to a server, whatever it responds."""

    def __init__(self, client: httpx.Client, app: VoiceAssistServer) -> None:
        self._url = app.url
        cookies = {cookie.name: cookie.value for cookie in client.cookies.jar}
        self._headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
            "X-CSRFToken": cookies["csrftoken"] or "",
        }

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self._url + path, headers=self._headers, timeout=30)

    def post(self, path: str, **form: str) -> httpx.Response:
        return httpx.post(self._url + path, headers=self._headers, data=form, timeout=30)


def post(client: httpx.Client, path: str, **form: Any) -> httpx.Response:
    return client.post(path, data=form, headers={"X-CSRFToken": client.cookies["csrftoken"]})


def reveal_path(database: Database) -> str:
    return f"/admin/core/message/{database.message_id}/reveal/"
