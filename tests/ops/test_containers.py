"""docker-compose.yml as Compose parses it, the Dockerfile, .env.example and the health checks, without containers."""

import json
import re
import subprocess
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

from core.database_roles import BACKUP_ROLE
from core.jobs.worker import STOP_TIMEOUT
from health import container_probe
from tests.support.dependency_servers import free_port
from tests.support.voiceassist_server import VoiceAssistServer

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(sysconfig.get_path("scripts"), "docker-compose")
COMPOSE_FILE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

POSTGRES_PASSWORDS = ("POSTGRES_PASSWORD", "POSTGRES_MIGRATE_PASSWORD", "POSTGRES_APP_PASSWORD")
REQUIRED = ("SECRET_KEY", *POSTGRES_PASSWORDS, "REDIS_PASSWORD", "QDRANT_API_KEY")
FILLED = {name: f"value-of-{name}" for name in REQUIRED}
DATA_SERVICES = ("postgres", "redis", "qdrant")
APPLICATION = ("voiceassist-server", "voiceassist-worker")
MONITORING = ("prometheus", "grafana")  # only with --profile observability
# Only with --profile backup
BACKUP = {"POSTGRES_BACKUP_PASSWORD": "backup-password", "BACKUP_RECIPIENT": "age1recipient"}
BACKUP_DOCKERFILE = (ROOT / "ops" / "backup" / "Dockerfile").read_text()


def compose(*options: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `docker compose config` with this environment only, without the caller's and without .env."""
    return subprocess.run(
        [COMPOSE, "--project-directory", ROOT, "--env-file", "/dev/null", "config", *options],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )


def parse_config(*options: str, environment: dict[str, str]) -> Any:
    result = compose("--format", "json", *options, environment=environment)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def config() -> Any:
    profiles = {"COMPOSE_PROFILES": "observability,backup", "GRAFANA_PASSWORD": "grafana-password"}
    return parse_config(environment=FILLED | profiles | BACKUP)


@pytest.fixture
def services(config: Any) -> Any:
    return config["services"]


def test_default_profile_needs_no_variables_of_other_profiles() -> None:
    assert set(parse_config(environment=FILLED)["services"]) == {*DATA_SERVICES, "migrate", *APPLICATION}


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_secret_stops_compose_and_is_named(name: str) -> None:
    result = compose("--quiet", environment=FILLED | {name: ""})
    assert result.returncode != 0
    assert f"required variable {name} is missing" in result.stderr


def test_compose_file_contains_no_secrets() -> None:
    raw = parse_config("--no-interpolate", environment={})
    for service in raw["services"].values():
        for name, value in service["environment"].items():
            if value is not None and re.search("PASSWORD|SECRET|KEY|AUTH|TOKEN", name):
                assert re.fullmatch(r"\$\{[A-Z_]+:(\?[^}]+|-)\}", value), name
    assert "requirepass ${REDIS_PASSWORD:?" in raw["configs"]["redis"]["content"]


def test_ports_are_published_on_loopback_only(services: Any) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {port["published"] for port in ports} == {"5432", "6379", "6333", "8000", "9090", "3000"}


def test_networks_isolate_the_data_services(config: Any, services: Any) -> None:
    assert config["networks"]["data"]["internal"] is True
    for name in DATA_SERVICES:
        assert set(services[name]["networks"]) == {"data", "published"}
    assert set(services["migrate"]["networks"]) == {"data"}
    for name in APPLICATION:
        assert set(services[name]["networks"]) == {"data", "server", "metrics"}
    # Monitoring reaches the server, but neither the data services nor the outside.
    assert config["networks"]["metrics"]["internal"] is True
    for name in MONITORING:
        assert set(services[name]["networks"]) == {"metrics", "published"}
    # The data services' second network only publishes their ports; it has no access to the outside.
    options = config["networks"]["published"]["driver_opts"]
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_images_are_pinned(services: Any) -> None:
    third_party = {services[name]["image"] for name in DATA_SERVICES + MONITORING}
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert len(bases) == 1
    assert re.findall(r"^FROM (\S+)", BACKUP_DOCKERFILE, re.MULTILINE) == [services["postgres"]["image"]]
    for image in third_party | bases:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-|$)", image), image


def test_services_have_health_checks_and_restart(services: Any) -> None:
    for name in (*DATA_SERVICES, *MONITORING, *APPLICATION, "backup"):
        assert services[name]["healthcheck"]["test"]
    restarts = {name: service["restart"] for name, service in services.items()}
    assert restarts.pop("migrate") == "no"
    assert set(restarts.values()) == {"unless-stopped"}


def test_data_is_stored_in_named_volumes_and_not_logged(services: Any) -> None:
    mounts = {name: services[name]["volumes"] for name in DATA_SERVICES + MONITORING}
    assert {name: [(m["source"], m["target"]) for m in mounts[name] if m["type"] == "volume"] for name in mounts} == {
        "postgres": [("postgres", "/var/lib/postgresql")],
        "redis": [("redis", "/data")],
        "qdrant": [("qdrant", "/qdrant/storage")],
        "prometheus": [("prometheus", "/prometheus")],
        "grafana": [("grafana", "/var/lib/grafana")],
    }
    for mount in (mount for name in mounts for mount in mounts[name] if mount["type"] == "bind"):
        assert mount["read_only"] is True
        assert Path(mount["source"]).is_dir(), mount
    options = set(services["postgres"]["command"])
    assert {"log_min_messages=log", "log_parameter_max_length=0", "log_parameter_max_length_on_error=0"} <= options


def test_server_starts_after_its_dependencies_and_has_time_to_drain(services: Any) -> None:
    server = services["voiceassist-server"]
    conditions = {name: dependency["condition"] for name, dependency in server["depends_on"].items()}
    healthy = dict.fromkeys(DATA_SERVICES, "service_healthy")
    assert conditions == healthy | {"migrate": "service_completed_successfully"}
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    drain, graceful = 5, 30  # seconds: the default of DRAIN_SECONDS, gunicorn's graceful timeout
    assert int(server["stop_grace_period"].removesuffix("s")) > drain + graceful


def test_worker_runs_jobs_of_the_same_release_and_has_time_to_finish_them(services: Any) -> None:
    worker, server = services["voiceassist-worker"], services["voiceassist-server"]
    assert worker["command"] == ["python", "manage.py", "worker", "--bind", "0.0.0.0:8000"]
    assert worker["environment"] == server["environment"] | {"BIND": worker["command"][-1]}
    assert worker["image"] == server["image"]
    assert worker["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert int(worker["stop_grace_period"].removesuffix("s")) > STOP_TIMEOUT + 10


@pytest.mark.parametrize("name", ["migrate", *APPLICATION, "backup", *MONITORING])
def test_containers_run_without_privileges(services: Any, name: str) -> None:
    assert services[name]["read_only"] is True
    assert services[name]["cap_drop"] == ["ALL"]
    assert services[name]["security_opt"] == ["no-new-privileges:true"]
    assert [path.split(":")[0] for path in services[name]["tmpfs"]] == ["/tmp"]


def test_env_example_describes_every_compose_variable() -> None:
    described = set(re.findall(r"^# \S.*\n(?:# )?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)|^ {4}([A-Z_]+):$", COMPOSE_FILE, re.MULTILINE))
    assert {name for pair in used for name in pair if name} <= described
    assert set(re.findall(r"^([A-Z_]+)=$", ENV_EXAMPLE, re.MULTILINE)) == set(REQUIRED)


def test_env_example_variables_reach_the_server() -> None:
    names = set(re.findall(r"^(?:# )?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE))
    names -= {*POSTGRES_PASSWORDS, "REDIS_PASSWORD"}  # part of the URLs
    names -= {"MIGRATE_DATABASE_URL"}  # for migrate only
    names -= {"GRAFANA_PASSWORD"}  # for Grafana only
    names -= {*BACKUP, "BACKUP_DIR", "BACKUP_DAYS"}  # for the backups only
    names -= {"VOICEASSIST_ENV"}  # fixed by the image, which lacks the development packages
    environment = {name: f"value-of-{name}" for name in names}
    server = parse_config(environment=FILLED | environment)["services"]["voiceassist-server"]
    assert server["environment"] == environment


def test_servers_default_environment(services: Any) -> None:
    environment = services["voiceassist-server"]["environment"]
    assert {name: value for name, value in environment.items() if value is not None} == {
        "DATABASE_URL": f"postgres://voiceassist_app:{FILLED['POSTGRES_APP_PASSWORD']}@postgres:5432/voiceassist",
        "REDIS_URL": f"redis://:{FILLED['REDIS_PASSWORD']}@redis:6379/0",
        "QDRANT_URL": "http://qdrant:6333",
        "QDRANT_API_KEY": FILLED["QDRANT_API_KEY"],
        "SECRET_KEY": FILLED["SECRET_KEY"],
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "HTTPS_ONLY": "false",
        "PLAINTEXT_DEPENDENCIES": "postgres,redis,qdrant",
    }


def test_migrate_connects_as_the_owner_and_differs_in_nothing_else(services: Any) -> None:
    owner = f"postgres://voiceassist_migrate:{FILLED['POSTGRES_MIGRATE_PASSWORD']}@postgres:5432/voiceassist"
    server = services["voiceassist-server"]["environment"]
    assert services["migrate"]["environment"] == server | {"DATABASE_URL": owner}


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"DATABASE_URL": "postgres://one@db/x"}, "postgres://one@db/x"),
        ({"DATABASE_URL": "postgres://one@db/x", "MIGRATE_DATABASE_URL": "postgres://two@db/x"}, "postgres://two@db/x"),
    ],
)
def test_migrate_uses_the_server_of_database_url(variables: dict[str, str], url: str) -> None:
    config = parse_config(environment=FILLED | variables | {"PLAINTEXT_DEPENDENCIES": "postgres"})["services"]
    assert config["migrate"]["environment"]["DATABASE_URL"] == url
    assert config["voiceassist-server"]["environment"]["DATABASE_URL"] == "postgres://one@db/x"


def test_new_volume_gets_the_roles(services: Any) -> None:
    (mount,) = (mount for mount in services["postgres"]["volumes"] if mount["type"] == "bind")
    assert mount["target"] == "/docker-entrypoint-initdb.d"
    files = sorted(Path(mount["source"]).iterdir())
    assert [path.name for path in files] == ["roles.sql", "roles_backup.sql"]
    read = [set(re.findall(r"^\\getenv \w+ (\w+)$", path.read_text(), re.MULTILINE)) for path in files]
    assert read == [set(POSTGRES_PASSWORDS[1:]), {"POSTGRES_BACKUP_PASSWORD"}]
    assert set.union(*read) <= set(services["postgres"]["environment"])


def test_only_the_role_of_the_backups_may_replicate(config: Any, services: Any) -> None:
    assert "hba_file=/etc/postgresql/pg_hba.conf" in services["postgres"]["command"]
    lines = config["configs"]["pg_hba"]["content"].splitlines()
    rules = [line.split() for line in lines]
    assert [rule for rule in rules if rule[1] == "replication"] == [
        ["host", "replication", BACKUP_ROLE, "all", "scram-sha-256"]
    ]
    assert [rule[0] for rule in rules if rule[-1] == "trust"] == ["local"]
    assert services["backup"]["environment"]["PGUSER"] == BACKUP_ROLE
    assert set(services["backup"]["networks"]) == {"data"}


def test_backup_service_stores_encrypted_files_in_the_volume_or_folder(services: Any, tmp_path: Path) -> None:
    mounts = {mount["target"]: mount for mount in services["backup"]["volumes"]}
    assert {target: mount["source"] for target, mount in mounts.items()} == {
        "/backups": "backups", "/staging": "backup-staging"
    }  # fmt: skip
    variables = FILLED | BACKUP | {"COMPOSE_PROFILES": "backup", "BACKUP_DIR": str(tmp_path)}
    changed = parse_config(environment=variables)["services"]["backup"]["volumes"]
    assert {(mount["type"], mount["source"]) for mount in changed if mount["target"] == "/backups"} == {
        ("bind", str(tmp_path))
    }
    for target in mounts:
        assert f" {target}" in BACKUP_DOCKERFILE
    script = re.sub(r"\$\$", "$", services["backup"]["entrypoint"][2])
    for missing, name in (("PGPASSWORD", "POSTGRES_BACKUP_PASSWORD"), ("BACKUP_RECIPIENT", "BACKUP_RECIPIENT")):
        given = {"PGPASSWORD": "x", "BACKUP_RECIPIENT": "x"} | {missing: ""}
        done = subprocess.run(["sh", "-c", script, "--", "true"], env=given, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, f"set {name} in .env\n")
    started = {"PGPASSWORD": "x", "BACKUP_RECIPIENT": "x"}
    command = ["sh", "-c", script, "--", "echo", "started"]
    assert subprocess.run(command, env=started, capture_output=True, text=True).stdout == "started\n"


def test_image_of_the_backups_contains_the_scripts_and_what_they_read() -> None:
    copied = set(re.findall(r"^COPY (\S+) ", BACKUP_DOCKERFILE, re.MULTILINE))
    allowed = (ROOT / "ops" / "backup" / "Dockerfile.dockerignore").read_text()
    assert copied == set(re.findall(r"^!(\S+)", allowed, re.MULTILINE))
    assert copied == {"voiceassist/__init__.py", "ops/postgresql", "ops/backup"}
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", BACKUP_DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "QDRANT_URL"])
def test_plain_text_to_another_server_is_a_decision(name: str) -> None:
    """Compose allows plain text to its own services only."""
    result = compose("--quiet", environment=FILLED | {name: "elsewhere"})
    assert result.returncode != 0
    assert "required variable PLAINTEXT_DEPENDENCIES is missing" in result.stderr
    for value in ("", "redis,qdrant"):
        config = parse_config(environment=FILLED | {name: "elsewhere", "PLAINTEXT_DEPENDENCIES": value})
        server = config["services"]["voiceassist-server"]
        assert server["environment"]["PLAINTEXT_DEPENDENCIES"] == value


def test_image_contains_only_the_packages_and_runs_unprivileged() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    copied = set(re.findall(r"^COPY (\w\S*) ", DOCKERFILE, re.MULTILINE))
    allowed = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == allowed == packages | {"manage.py", "requirements/base.txt"}
    assert "--require-hashes" in DOCKERFILE
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)
    command = "gunicorn -c voiceassist/gunicorn.py voiceassist.wsgi:application"
    assert DOCKERFILE.endswith(f"\nCMD {json.dumps(command.split())}\n")


def run_entrypoint(service: Any, programs: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a service's entrypoint and command in a local shell, with stand-ins for its programs and /tmp."""
    shell, option, script, *rest = [part.replace("$$", "$") for part in service["entrypoint"]]
    assert (shell, option) == ("sh", "-c")
    script = re.sub(r"/(bin/prometheus|run\.sh|tmp/)", rf"{programs}/\1", script)
    (programs / "bin").mkdir()
    (programs / "tmp").mkdir()
    for program in (programs / "bin" / "prometheus", programs / "run.sh"):
        program.write_text('#!/bin/sh\necho started "$@"\n')
        program.chmod(0o755)
    command = ["/bin/sh", "-c", script, *rest, *(service["command"] or [])]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("token", ["", "to $HOME %s"])
def test_prometheus_entrypoint_writes_the_token_and_passes_options(services: Any, tmp_path: Path, token: str) -> None:
    started = run_entrypoint(services["prometheus"], tmp_path, METRICS_TOKEN=token)
    assert started.stdout == f"started {' '.join(services['prometheus']['command'])}\n", started.stderr
    token_file = tmp_path / "tmp" / "metrics-token"
    assert token_file.read_text() == token
    assert token_file.stat().st_mode & 0o077 == 0
    prometheus_config = (ROOT / "ops/prometheus/prometheus.yml").read_text()
    assert f"credentials_file: /{token_file.relative_to(tmp_path)}\n" in prometheus_config


def test_grafana_requires_a_password(services: Any, tmp_path: Path) -> None:
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "grafana-password"
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert run_entrypoint(services["grafana"], tmp_path / "with", GF_SECURITY_ADMIN_PASSWORD="x").stdout == "started\n"
    refused = run_entrypoint(services["grafana"], tmp_path / "without", GF_SECURITY_ADMIN_PASSWORD="")
    assert refused.returncode != 0
    assert "set GRAFANA_PASSWORD in .env" in refused.stderr


def image_health_check() -> tuple[list[str], float]:
    match = re.search(r"^HEALTHCHECK .*--timeout=(\d+)s.*\\\n +CMD (\[.+\])$", DOCKERFILE, re.M)
    assert match, "The Dockerfile has no HEALTHCHECK in exec form."
    return json.loads(match[2]), float(match[1])


def compose_health_check() -> tuple[list[str], float]:
    check = parse_config(environment=FILLED)["services"]["voiceassist-server"]["healthcheck"]
    assert check["test"][0] == "CMD"
    return check["test"][1:], float(check["timeout"].removesuffix("s"))


HEALTH_CHECKS = {"/health": image_health_check, "/ready": compose_health_check}


def health_check(path: str, **environment: str) -> int:
    """Run the health check of this path as a container engine would, and return its exit code."""
    command, seconds = HEALTH_CHECKS[path]()
    programs = {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin"}  # with a `python`, as in the image
    started_at = time.monotonic()
    process = subprocess.run(command, env=programs | environment, cwd=ROOT, capture_output=True, timeout=10)
    assert time.monotonic() - started_at < seconds, "A container engine would have killed it."
    return process.returncode


@pytest.mark.parametrize("path", HEALTH_CHECKS)
@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("301 Go", 1), ("503 No", 1), ("", 1)])
def test_image_checks_liveness_and_compose_checks_readiness(path: str, status: str, code: int) -> None:
    with create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(5)
        check = pool.submit(health_check, path, BIND=f"0.0.0.0:{listener.getsockname()[1]}")
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1024).startswith(f"GET {path} HTTP/1.".encode())
            if status:  # otherwise the connection stays open and silent
                connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
            assert check.result() == code


@pytest.mark.parametrize("path", HEALTH_CHECKS)
def test_health_check_fails_on_a_closed_port(path: str) -> None:
    assert health_check(path, BIND="0.0.0.0:1") == 1  # tcpmux, which is unused


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "0.0.0.0:{}", "[::]:{}"])
def test_health_checks_use_the_address_in_bind(address: str, tmp_path: Path) -> None:
    port = free_port()
    bind = address.format(port)
    (tmp_path / "bind").write_text(f"{bind}\n", "utf-8-sig")
    # The tests migrate a database with another name, so the server's has pending migrations.
    with VoiceAssistServer(port=port, BIND=bind, HEALTH_OPTIONAL="migrations"):
        for path in HEALTH_CHECKS:
            assert health_check(path, BIND=bind) == 0
            assert health_check(path, BIND="127.0.0.1:1", BIND_FILE=str(tmp_path / "bind")) == 0
            assert health_check(path, BIND=f"[::1]:{port}") == (0 if address == "[::]:{}" else 1)


def test_health_check_defaults_to_the_production_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIND", raising=False)
    assert container_probe.server_address() == ("127.0.0.1", 8000)
    monkeypatch.setenv("BIND", "")
    assert container_probe.server_address() == ("127.0.0.1", 8000)
