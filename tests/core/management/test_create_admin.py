"""`manage.py create_admin` of development. `tests/core/auth/test_login_failures.py` tests emergency accounts."""

import io
import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from core.models import User
from tests.support.databases import migrated_database
from tests.support.dependency_servers import as_application
from tests.support.forked_python import ForkedPython
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within

EMAIL = "admin@localhost.localdomain"


@pytest.fixture
def password_file(tmp_path: Path, settings: Any) -> Path:
    settings.VAR = tmp_path
    return tmp_path / "admin-password"


def create_admin() -> str:
    output = io.StringIO()
    call_command("create_admin", stdout=output)
    return output.getvalue()


def logs_in(password: str) -> bool:
    response = Client().post("/admin/login/", {"username": EMAIL, "password": password, "next": "/admin/"})
    return (response.status_code, response.headers.get("Location")) == (302, "/admin/")


@pytest.mark.django_db
def test_prints_what_logs_in_and_creates_one_account(password_file: Path) -> None:
    password_file.write_text("of an earlier database\n")
    password_file.chmod(0o644)
    output = create_admin()
    password = password_file.read_text().strip()
    assert output == f"Log in to the admin as {EMAIL} with password {password} (stored in {password_file})\n"
    assert password_file.stat().st_mode & 0o777 == 0o600
    assert logs_in(password)
    assert create_admin() == output
    assert User.objects.get().is_superuser


@pytest.mark.django_db
def test_does_not_print_a_password_that_was_replaced(password_file: Path) -> None:
    create_admin()
    admin = User.objects.get()
    admin.set_password("replaced in the admin")
    admin.save()
    assert create_admin() == f"Log in to the admin as {EMAIL} with the password that you have set\n"


@pytest.mark.django_db
def test_creates_nothing_beside_another_superuser(password_file: Path) -> None:
    User.objects.create_superuser("ann@example.org")
    assert create_admin() == ""
    assert User.objects.count() == 1
    assert not password_file.exists()


@pytest.mark.django_db
def test_production_refuses_it(password_file: Path, settings: Any) -> None:
    settings.PRODUCTION = True
    with pytest.raises(CommandError, match="is for development only. Run manage.py createsuperuser instead"):
        create_admin()
    assert not User.objects.exists()
    assert not password_file.exists()


@pytest.mark.django_db
def test_an_account_whose_password_cannot_be_stored_is_not_created(tmp_path: Path, settings: Any) -> None:
    settings.VAR = tmp_path / "missing"
    with pytest.raises(CommandError, match="can't be stored in .*No such file or directory"):
        create_admin()
    assert not User.objects.exists()


@pytest.mark.django_db
def test_a_demoted_account_is_not_promoted(password_file: Path) -> None:
    User.objects.create_user(EMAIL)
    with pytest.raises(CommandError, match="exists and is no superuser"):
        create_admin()
    assert not password_file.exists()


def test_two_commands_at_once_create_one_account(servers: Servers, tmp_path: Path) -> None:
    url = migrated_database(servers.postgres, "create_admin")
    program = (
        "import os, pathlib, django; django.setup()\n"
        "from django.conf import settings; settings.VAR = pathlib.Path(os.environ['FOLDER'])\n"
        "from django.core.management import call_command; call_command('create_admin')"
    )
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "voiceassist.settings",
        "DATABASE_URL": as_application(url),
        "FOLDER": str(tmp_path),
    }
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted"
    with psycopg.connect(url, autocommit=True) as database:
        with database.transaction():
            # Both find no superuser, and then wait to insert one.
            database.execute("LOCK TABLE users IN SHARE MODE")
            options: dict[str, Any] = {"env": environment, "text": True, "stdout": subprocess.PIPE}
            processes = [ForkedPython(["-c", program], stderr=subprocess.STDOUT, **options) for _ in range(2)]
            assert succeeds_within(30, lambda: database.execute(waiting).fetchone() == (2,))
        outputs = {process.communicate(timeout=30)[0] for process in processes}
        assert [process.returncode for process in processes] == [0, 0], outputs
        password = (tmp_path / "admin-password").read_text().strip()
        assert outputs == {
            f"Log in to the admin as {EMAIL} with password {password} (stored in {tmp_path}/admin-password)\n"
        }
        assert database.execute("SELECT count(*) FROM users").fetchone() == (1,)
