"""Attacks on the second factor and on the rules for passwords, through a server in production mode."""

import base64
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from django.core.signing import b64_decode
from django_otp.oath import TOTP

from tests.support.databases import manage
from tests.support.plugin import Servers
from tests.support.reveal import REASON
from tests.support.second_factor import CONTINUE, Person, code_of, secret_of, submit
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

PASSWORD = "correct horse battery"
PLANTED = "a planted passphrase"
SUPERUSER = "root@example.org"
PHI = "PHI-chest-pain"
ACCOUNTS = f"""
from django.contrib.auth.models import Group, Permission
from core.models import Message, Session, User
def create(name, *permissions, **fields):
    user = User.objects.create_user(name + "@example.org", {PASSWORD!r}, **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user
for name in ("reader", "other", "guessed", "parallel", "moved", "changed", "racer"):
    create(name, "view_phi", "view_message", is_staff=True)
create("changer", "view_user", "change_user", "add_user", is_staff=True)
create("plain")
create("member").groups.add(Group.objects.create(name="readers"))
session = Session.objects.create(user=create("patient"))
Message.objects.create(session=session, role="user", content={PHI!r})
"""


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    url = database_with_staff(servers.postgres, "second_factor", SUPERUSER, PASSWORD)
    done = manage("shell", "--no-imports", "-c", ACCOUNTS, url=url)
    assert done.returncode == 0, done.stderr
    return url


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


@pytest.fixture(autouse=True)
def no_failures(app: VoiceAssistServer, database: str) -> None:
    """Forget the failed logins of other tests, which come from the same address."""
    query(database, "DELETE FROM axes_accessattempt")


@pytest.fixture(scope="module")
def people(app: VoiceAssistServer) -> dict[str, Person]:
    """Return users by the first part of their email. They have no second factor yet."""
    names = (
        "root",
        "reader",
        "other",
        "guessed",
        "parallel",
        "moved",
        "changed",
        "racer",
        "changer",
        "plain",
        "member",
    )
    return {name: Person(app.url, f"{name}@example.org", PASSWORD) for name in names}


@pytest.fixture(scope="module")
def superuser(people: dict[str, Person]) -> Iterator[httpx.Client]:
    with closing(people["root"].log_in()) as client:
        yield client


@pytest.fixture(scope="module")
def reader(people: dict[str, Person]) -> Person:
    people["reader"].log_in().close()
    return people["reader"]


def query(database: str, sql: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(database, autocommit=True) as connection:
        cursor = connection.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def user_id(database: str, name: str) -> str:
    return str(query(database, "SELECT id FROM users WHERE email = %s", f"{name}@example.org")[0][0])


def events(database: str, action: str, name: str) -> int:
    sql = "SELECT count(*) FROM audit_events WHERE action = %s AND object_id = %s"
    return int(query(database, sql, action, user_id(database, name))[0][0])


def reveal_path(database: str) -> str:
    return f"/admin/core/message/{query(database, 'SELECT id FROM messages')[0][0]}/reveal/"


def is_logged_in(client: httpx.Client) -> bool:
    return client.get("/admin/").status_code == 200


@contextmanager
def pending(person: Person, address: str = "127.0.0.1") -> Iterator[httpx.Client]:
    """Return a client that has sent the right password and nothing else."""
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(base_url=person.url, timeout=30, transport=transport) as client:
        assert person.enter_password(client).headers["Location"] == CONTINUE
        yield client


# The login


def test_password_alone_opens_nothing(database: str, reader: Person) -> None:
    logins = events(database, "login", "reader")
    with pending(reader) as client:
        for path in ("/admin/", "/admin/core/message/", "/admin/status/", "/admin/second-factor/", "/admin/jsi18n/"):
            assert client.get(path).headers["Location"].startswith("/admin/login/?next="), path
        assert client.get("/admin/status/part").status_code == 403
        assert PHI not in submit(client, reveal_path(database), **REASON).text
        for form in ({"step": "enrol"}, {"step": "password", "new_password1": PLANTED, "new_password2": PLANTED}, {}):
            response = submit(client, CONTINUE, code="000000", **form)
            assert (response.status_code, response.headers["Location"]) == (302, CONTINUE)
        submit(client, "/admin/second-factor/", code="000000", remove="1")
        assert not is_logged_in(client)
    assert events(database, "login", "reader") == logins


def test_code_works_once_and_only_for_its_user(database: str, people: dict[str, Person], reader: Person) -> None:
    other = people["other"]
    other.log_in().close()
    code = code_of(other.secret, steps=1)
    for person, expected in ((reader, 200), (other, 302), (other, 200)):
        with pending(person) as client:
            assert submit(client, CONTINUE, step="code", code=code).status_code == expected
            assert is_logged_in(client) is (expected == 302)
    assert events(database, "second_factor_failed", "other") == 1
    assert events(database, "login_failed", "other") <= 1


def test_recovery_code_works_once(database: str, reader: Person) -> None:
    code = reader.recovery_codes.pop()
    for expected in (302, 200):
        with pending(reader) as client:
            assert submit(client, CONTINUE, step="code", code=code.upper()).status_code == expected
            assert is_logged_in(client) is (expected == 302)
    assert events(database, "recovery_code_used", "reader") >= 1


def test_stored_values_are_not_codes(database: str, reader: Person) -> None:
    key = user_id(database, "reader")
    secret = query(database, "SELECT key FROM otp_totp_totpdevice WHERE user_id = %s", key)[0][0]
    digest = query(database, "SELECT digests[1] FROM recovery_codes WHERE user_id = %s", key)[0][0]
    stored = base64.b64decode(secret)
    computed = [f"{TOTP(stored[at : at + 20]).token():06}" for at in (0, 12, len(stored) - 20)]
    with pending(reader) as client:
        for code in (digest, secret[:50], computed[0]):
            assert submit(client, CONTINUE, step="code", code=code).status_code == 200
        assert not is_logged_in(client)
    assert code_of(reader.secret) not in computed


def test_database_does_not_contain_secrets(database: str, people: dict[str, Person], reader: Person) -> None:
    """The secrets are those of an app in use, of one that is being set up, and recovery codes."""
    with pending(people["racer"]) as client:
        secrets = {reader.secret, secret_of(client.get(CONTINUE))}
        tables = query(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [row for (table,) in tables for (row,) in query(database, f'SELECT t::text FROM "{table}" t')]
        for (data,) in query(database, "SELECT session_data FROM django_session"):
            payload = data.split(":")[0]
            content = b64_decode(payload.lstrip(".").encode())
            rows.append((zlib.decompress(content) if payload.startswith(".") else content).decode("latin-1"))
    everything = "\n".join(rows)
    assert "new_second_factor" in everything  # the pending one was read
    for secret in secrets:
        raw = base64.b32decode(secret.replace(" ", ""))
        for form in (secret, secret.replace(" ", ""), raw.hex(), base64.b64encode(raw).decode(), raw.decode("latin-1")):
            assert form not in everything
    for code in reader.recovery_codes:
        assert code not in everything and code.replace("-", "") not in everything


def test_device_that_is_moved_to_another_user_does_not_work(database: str, people: dict[str, Person]) -> None:
    """Somebody who can write to the table can't give their own app to another user."""
    attacker, victim = people["moved"], people["changed"]
    for person in (attacker, victim):
        person.log_in().close()
    sql = (
        "UPDATE otp_totp_totpdevice SET last_t = -1, drift = 0, "
        "key = (SELECT key FROM otp_totp_totpdevice WHERE user_id = %s) WHERE user_id = %s"
    )
    query(database, sql, user_id(database, "moved"), user_id(database, "changed"))
    with pending(victim) as client:
        assert submit(client, CONTINUE, step="code", code=code_of(attacker.secret)).status_code == 200
        assert not is_logged_in(client)


def test_codes_cannot_be_guessed_in_parallel(database: str, people: dict[str, Person]) -> None:
    """Twelve addresses send three guesses each. Few of them are checked, and after that not even a right code."""
    person = people["parallel"]
    person.log_in().close()
    right = {code_of(person.secret, steps) for steps in range(-3, 4)}
    guesses = [code for code in (f"{number:06}" for number in range(50)) if code not in right]

    def guess(number: int) -> list[int]:
        with pending(person, f"127.0.0.{number + 10}") as client:
            mine = guesses[number * 3 : number * 3 + 3]
            return [submit(client, CONTINUE, step="code", code=code).status_code for code in mine]

    with ThreadPoolExecutor(6) as pool:
        assert {status for statuses in pool.map(guess, range(12)) for status in statuses} <= {200, 429}
    sql = "SELECT throttling_failure_count FROM otp_totp_totpdevice WHERE user_id = %s"
    checked = query(database, sql, user_id(database, "parallel"))[0][0]
    assert 1 <= checked <= 9  # the wait after the ninth is 256 seconds
    assert events(database, "second_factor_failed", "parallel") == checked
    query(  # so that the test does not depend on its speed
        database,
        "UPDATE otp_totp_totpdevice SET throttling_failure_count = 9, throttling_failure_timestamp = now() "
        "WHERE user_id = %s",
        user_id(database, "parallel"),
    )
    with pending(person, "127.0.0.99") as client:
        response = submit(client, CONTINUE, step="code", code=code_of(person.secret, steps=1))
        assert "Too many wrong codes. Wait" in response.text
        # The owner still gets in.
        assert submit(client, CONTINUE, step="code", code=person.recovery_codes.pop()).status_code == 302
        assert is_logged_in(client)


def test_wrong_codes_lock_the_login(database: str, people: dict[str, Person]) -> None:
    person = people["guessed"]
    person.log_in().close()
    with pending(person) as client:
        statuses = [
            submit(client, CONTINUE, step="code", code=f"aaaa-bbbb-{number}").status_code for number in range(6)
        ]
        assert statuses[0] == 200
        assert statuses[-1] == 429
        assert submit(client, CONTINUE, step="code", code=person.recovery_codes[0]).status_code == 429
        assert not is_logged_in(client)
    with person.browser() as client:
        assert person.enter_password(client).status_code == 429


def test_pending_login_ends_with_the_password(database: str, people: dict[str, Person], reader: Person) -> None:
    changes = (
        "password = password || 'x'",
        "is_active = false",
        "is_staff = false",
        "logins_ended_at = now() + interval '1 s'",
    )
    for change in changes:
        with pending(reader) as client:
            [(old,)] = query(database, "SELECT to_jsonb(u) FROM users u WHERE email = %s", reader.email)
            query(database, f"UPDATE users SET {change} WHERE email = %s", reader.email)
            assert submit(client, CONTINUE, step="code", code=reader.recovery_codes[-1]).headers["Location"] == (
                "/admin/login/?next=/admin/"
            )
            query(
                database,
                "UPDATE users SET password = %s, is_active = true, is_staff = true, logins_ended_at = NULL "
                "WHERE email = %s",
                old["password"],
                reader.email,
            )
            assert not is_logged_in(client)
            assert client.get(CONTINUE).headers["Location"] == "/admin/login/?next=/admin/"


def test_next_page_is_on_this_host(reader: Person) -> None:
    for target, expected in (("/admin/core/message/", "/admin/core/message/"), ("https://evil.example/", "/admin/")):
        with reader.browser() as client:
            reader.enter_password(client, target)
            response = submit(client, CONTINUE, step="code", code=reader.recovery_codes.pop(), next="//evil.example")
            assert response.headers["Location"] == expected
            for path in (
                "/admin/second-factor/verify/?next=//evil.example",
                "/admin/second-factor/?next=//evil.example",
            ):
                assert "evil" not in client.get(path).text


# Enrolment


def test_enrolment_needs_a_csrf_token_and_the_own_session(database: str, people: dict[str, Person]) -> None:
    person = people["racer"]
    count = "SELECT count(*) FROM otp_totp_totpdevice WHERE user_id = %s"
    with pending(person) as first, pending(person) as second:
        secret, other_secret = secret_of(first.get(CONTINUE)), secret_of(second.get(CONTINUE))
        form = {"step": "enrol", "code": code_of(secret)}
        assert first.post(CONTINUE, data=form).status_code == 403
        assert submit(second, CONTINUE, **form).status_code == 200  # a code of another session's secret
        assert query(database, count, user_id(database, "racer")) == [(0,)]
        assert "not shown again" in submit(first, CONTINUE, **form).text
        # The second can't replace the app of the first. It is asked for a code.
        response = submit(second, CONTINUE, step="enrol", code=code_of(other_secret))
        assert response.headers["Location"] == CONTINUE
        assert "authenticator app shows" in second.get(CONTINUE).text
        assert not is_logged_in(second)
        assert query(database, count, user_id(database, "racer")) == [(1,)]


def test_unattended_login_cannot_change_the_second_factor(database: str, reader: Person) -> None:
    count = "SELECT key FROM otp_totp_totpdevice WHERE user_id = %s"
    before = query(database, count, user_id(database, "reader"))
    with closing(reader.log_in()) as client:
        for action in ("codes", "replace", "remove"):
            for code in ("", "000000"):
                assert "This field is required" in submit(client, "/admin/second-factor/", **{action: "1"}).text
                assert submit(client, "/admin/second-factor/", code=code, **{action: "1"}).status_code in (200, 429)
        assert "QR code" not in client.get("/admin/second-factor/").text
        # A required one can't be removed, not even with a code.
        submit(client, "/admin/second-factor/", code=reader.recovery_codes.pop(), remove="1")
    assert query(database, count, user_id(database, "reader")) == before


# Passwords


def set_password(client: httpx.Client, database: str, name: str, **fields: str) -> httpx.Response:
    form = {"password1": PLANTED, "password2": PLANTED, "usable_password": "true", "set-password": "1", **fields}
    return submit(client, f"/admin/core/user/{user_id(database, name)}/password/", **form)


def make_staff(client: httpx.Client, database: str, people: dict[str, Person], name: str) -> None:
    """Grant everything that revealing takes, in the admin."""
    permissions = query(
        database, "SELECT id FROM auth_permission WHERE codename IN ('view_phi', 'view_message', 'view_user')"
    )
    form: dict[str, Any] = {
        "email": f"{name}@example.org",
        "is_active": "on",
        "is_staff": "on",
        "user_permissions": [str(key) for (key,) in permissions],
    }
    path = f"/admin/core/user/{user_id(database, name)}/change/"
    assert submit(client, path, **form).status_code == 302


def test_planted_password_does_not_open_a_later_staff_account(
    database: str, people: dict[str, Person], superuser: httpx.Client
) -> None:
    changer, plain = people["changer"], people["plain"]
    with changer.browser() as client:
        assert changer.enter_password(client).headers["Location"] == "/admin/"  # needs no second factor
        assert "This field is required" in set_password(client, database, "plain").text
        assert set_password(client, database, "plain", confirmation=PASSWORD).status_code == 302
    make_staff(superuser, database, people, "plain")
    assert query(database, "SELECT password FROM users WHERE email = %s", plain.email)[0][0].startswith("!")
    for password in (PLANTED, PASSWORD):
        plain.password = password
        with plain.browser() as client:
            assert plain.enter_password(client).status_code == 200
            assert PHI not in submit(client, reveal_path(database), **REASON).text

    # The superuser sets a new one, which has to be changed.
    assert (
        set_password(superuser, database, "plain", confirmation=people["root"].recovery_codes.pop()).status_code == 302
    )
    plain.password = PLANTED
    with pending(plain) as client:
        form = {"step": "password", "new_password1": PLANTED, "new_password2": PLANTED}
        assert "Choose another password" in submit(client, CONTINUE, **form).text
        assert not is_logged_in(client)
        form |= {"new_password1": "my own passphrase", "new_password2": "my own passphrase"}
        assert submit(client, CONTINUE, **form).headers["Location"] == CONTINUE
        assert not is_logged_in(client)
        plain.enrol(client)
        assert is_logged_in(client)
        assert PHI in submit(client, reveal_path(database), **REASON).text


def test_planted_password_does_not_survive_a_new_permission_of_the_group(
    database: str, people: dict[str, Person], superuser: httpx.Client
) -> None:
    [(group, permission)] = query(
        database,
        "SELECT g.id, p.id FROM auth_group g, auth_permission p WHERE g.name = 'readers' AND p.codename = 'view_phi'",
    )
    form = {"name": "readers", "permissions": str(permission)}
    assert submit(superuser, f"/admin/auth/group/{group}/change/", **form).status_code == 302
    [(password,)] = query(database, "SELECT password FROM users WHERE email = %s", people["member"].email)
    assert password.startswith("!")


def test_unattended_login_cannot_set_passwords(
    database: str, people: dict[str, Person], superuser: httpx.Client
) -> None:
    """Each of these needs a code: the own password, another account's, a new account, the reset of a second factor."""
    passwords = "SELECT id, password FROM users ORDER BY id"
    before = query(database, passwords)
    new_user = {"email": "new@example.org", "usable_password": "true", "password1": PLANTED, "password2": PLANTED}
    for fields in ({}, {"confirmation": "000000"}, {"confirmation": PASSWORD}):
        for name in ("root", "reader"):
            assert set_password(superuser, database, name, **fields).status_code in (200, 429)
        assert submit(superuser, "/admin/core/user/add/", **new_user, **fields).status_code in (200, 429)
        path = f"/admin/core/user/{user_id(database, 'reader')}/reset-second-factor/"
        assert submit(superuser, path, **fields).status_code in (200, 429)
    assert query(database, passwords) == before


def test_reset_needs_a_superuser_with_a_code(
    database: str, people: dict[str, Person], reader: Person, superuser: httpx.Client
) -> None:
    devices = "SELECT count(*) FROM otp_totp_totpdevice WHERE user_id = %s"
    key = user_id(database, "reader")
    path = f"/admin/core/user/{key}/reset-second-factor/"
    with people["changer"].browser() as client:
        people["changer"].enter_password(client)
        assert submit(client, path, confirmation=PASSWORD).status_code == 403
    assert query(database, devices, key) == [(1,)]
    assert submit(superuser, path, confirmation=people["root"].recovery_codes.pop()).status_code == 302
    assert query(database, devices, key) == [(0,)]
    deletions = (
        "SELECT actor_email, changes->'key'->>0 FROM audit_events "
        'WHERE object_id = %s AND "table" = %s AND action = %s'
    )
    assert query(database, deletions, key, "otp_totp_totpdevice", "delete") == [(SUPERUSER, "●●●●●●")]
    reader.recovery_codes.clear()
    reader.log_in().close()  # sets up a new one
