"""docker-compose.yml as Compose parses it, the Dockerfile, .env.example and the health checks, without containers."""

import json
import re
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

from core.database_roles import BACKUP_ROLE
from core.jobs.worker import STOP_TIMEOUT
from health import container_probe
from tests.support.compose import COMPOSE_FILE, ROOT, SECRETS, compose, parse_config
from tests.support.dependency_servers import free_port
from tests.support.polling import ends_within
from tests.support.voiceassist_server import VoiceAssistServer

DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

# Variables of the application whose secrets have other names in Compose.
SECRET_VARIABLES = {"DATABASE_PASSWORD": "POSTGRES_APP_PASSWORD"}
DATA_SERVICES = ("postgres", "redis", "qdrant")
APPLICATION = ("voiceassist-server", "voiceassist-worker")
MONITORING = ("prometheus", "alertmanager", "grafana")  # only with --profile observability
BACKUP_DOCKERFILE = (ROOT / "ops" / "backup" / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def config() -> Any:
    return parse_config(environment={"COMPOSE_PROFILES": "observability,edge,backup"})


@pytest.fixture
def services(config: Any) -> Any:
    return config["services"]


def test_starts_without_any_variable() -> None:
    assert set(parse_config(environment={})["services"]) == {*DATA_SERVICES, "migrate", *APPLICATION}


def test_limits_bound_every_service(services: Any) -> None:
    """The memory is at least what the settings allow a service to take."""
    limits = {name: (int(service["mem_limit"]) >> 20, service["pids_limit"]) for name, service in services.items()}
    assert all(memory >= 128 and pids >= 64 for memory, pids in limits.values())
    megabytes = int(re.search(r"maxmemory (\d+)mb", COMPOSE_FILE)[1])  # type: ignore[index]
    assert limits["redis"][0] >= 3 * megabytes
    connections = int(re.search(r"max_connections=(\d+)", COMPOSE_FILE)[1])  # type: ignore[index]
    assert limits["postgres"][1] >= connections * 1.5
    assert int(services["postgres"]["shm_size"]) == 256 << 20


def test_ports_except_those_of_the_edge_are_published_on_loopback_only(services: Any) -> None:
    edge = services["edge"]["ports"]
    assert [(port.get("host_ip"), port["published"]) for port in edge] == [(None, "443"), (None, "80")]
    ports = [port for service in services.values() for port in service.get("ports", []) if port not in edge]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {port["published"] for port in ports} == {"5432", "6379", "6333", "8000", "9090", "9093", "3000"}


def test_networks_isolate_the_data_services(config: Any, services: Any) -> None:
    assert config["networks"]["data"]["internal"] is True
    for name in DATA_SERVICES:
        assert set(services[name]["networks"]) == {"data", "published"}
    assert set(services["migrate"]["networks"]) == {"data"}
    assert set(services["voiceassist-server"]["networks"]) == {"data", "server", "metrics", "edge"}
    assert set(services["voiceassist-worker"]["networks"]) == {"data", "server", "metrics"}
    assert config["networks"]["edge"]["internal"] is True
    assert set(services["edge"]["networks"]) == {"edge", "published"}
    # Monitoring reaches the server, but neither the data services nor the outside.
    assert config["networks"]["metrics"]["internal"] is True
    for name in ("prometheus", "grafana"):
        assert set(services[name]["networks"]) == {"metrics", "published"}
    assert set(services["alertmanager"]["networks"]) == {"metrics", "alerts"}
    # The data services' second network only publishes their ports; it has no access to the outside.
    options = config["networks"]["published"]["driver_opts"]
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_images_are_pinned(services: Any) -> None:
    third_party = {services[name]["image"] for name in (*DATA_SERVICES, *MONITORING, "edge")}
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert len(bases) == 1
    assert re.findall(r"^FROM (\S+)", BACKUP_DOCKERFILE, re.MULTILINE) == [services["postgres"]["image"]]
    for image in third_party | bases:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-|$)", image), image


def test_services_have_health_checks_and_restart(services: Any) -> None:
    for name in (*DATA_SERVICES, *MONITORING, *APPLICATION, "edge", "backup"):
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
        "alertmanager": [("alertmanager", "/alertmanager")],
        "grafana": [("grafana", "/var/lib/grafana")],
    }
    folders = [mount for name in mounts for mount in mounts[name] if mount["type"] == "bind"]
    assert folders
    for mount in folders:
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


@pytest.mark.parametrize("name", ["migrate", *APPLICATION, *MONITORING, "edge", "backup"])
def test_containers_run_without_privileges(services: Any, name: str) -> None:
    assert services[name]["read_only"] is True
    assert services[name]["cap_drop"] == ["ALL"]
    assert services[name]["security_opt"] == ["no-new-privileges:true"]
    assert {path.split(":")[0] for path in services[name].get("tmpfs", [])} <= {"/tmp"}


def test_env_example_describes_every_compose_variable() -> None:
    described = set(re.findall(r"^# \S.*\n(?:# )?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)|^ {4}([A-Z_]+):$", COMPOSE_FILE, re.MULTILINE))
    assert {name for pair in used for name in pair if name} <= described
    assert re.findall(r"^[A-Z_]+=", ENV_EXAMPLE, re.MULTILINE) == []  # nothing is required


def test_env_example_variables_reach_the_server(services: Any) -> None:
    names = set(re.findall(r"^# ([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE))
    names -= set(re.findall(r"^# ([A-Z_]+)=", ENV_EXAMPLE.split("Compose only")[1], re.MULTILINE))
    names -= {"VOICEASSIST_ENV"}  # fixed by the image, which lacks the development packages
    secrets = {name for name in names if SECRET_VARIABLES.get(name, name) in SECRETS}
    environment = {name: f"value-of-{name}" for name in names - secrets}
    server = parse_config(environment=environment)["services"]["voiceassist-server"]
    files = {f"{name}_FILE": f"/run/secrets/{SECRET_VARIABLES.get(name, name)}" for name in secrets}
    assert server["environment"] == environment | files


def test_servers_default_environment(services: Any) -> None:
    environment = services["voiceassist-server"]["environment"]
    assert {name: value for name, value in environment.items() if value is not None} == {
        "DATABASE_URL": "postgres://voiceassist_app@postgres:5432/voiceassist",
        "DATABASE_PASSWORD_FILE": "/run/secrets/POSTGRES_APP_PASSWORD",
        "REDIS_URL": "redis://redis:6379/0",
        "REDIS_PASSWORD_FILE": "/run/secrets/REDIS_PASSWORD",
        "QDRANT_URL": "http://qdrant:6333",
        "QDRANT_API_KEY_FILE": "/run/secrets/QDRANT_API_KEY",
        "SECRET_KEY_FILE": "/run/secrets/SECRET_KEY",
        "SECRET_KEY_FALLBACKS_FILE": "/run/secrets/SECRET_KEY_FALLBACKS",
        "METRICS_TOKEN_FILE": "/run/secrets/METRICS_TOKEN",
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "HTTPS_ONLY": "false",
        "PLAINTEXT_DEPENDENCIES": "postgres,redis,qdrant",
    }


def test_migrate_connects_as_the_owner_and_differs_in_nothing_else(services: Any) -> None:
    server, migrate = services["voiceassist-server"], services["migrate"]
    assert migrate["environment"] == server["environment"] | {
        "DATABASE_URL": "postgres://voiceassist_migrate@postgres:5432/voiceassist",
        "DATABASE_PASSWORD_FILE": "/run/secrets/POSTGRES_MIGRATE_PASSWORD",
    }
    different = {"POSTGRES_APP_PASSWORD", "POSTGRES_MIGRATE_PASSWORD"}
    assert {item["source"] for item in server["secrets"]} ^ {item["source"] for item in migrate["secrets"]} == different


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"DATABASE_URL": "postgres://one@db/x"}, "postgres://one@db/x"),
        ({"DATABASE_URL": "postgres://one@db/x", "MIGRATE_DATABASE_URL": "postgres://two@db/x"}, "postgres://two@db/x"),
    ],
)
def test_migrate_uses_the_server_of_database_url(variables: dict[str, str], url: str) -> None:
    config = parse_config(environment=variables | {"PLAINTEXT_DEPENDENCIES": "postgres"})["services"]
    assert config["migrate"]["environment"]["DATABASE_URL"] == url
    assert config["voiceassist-server"]["environment"]["DATABASE_URL"] == "postgres://one@db/x"


def test_new_volume_gets_the_roles(services: Any) -> None:
    (mount,) = (mount for mount in services["postgres"]["volumes"] if mount["type"] == "bind")
    assert mount["target"] == "/docker-entrypoint-initdb.d"
    files = sorted(Path(mount["source"]).iterdir())
    assert [path.name for path in files] == ["roles.sql", "roles_backup.sql"]
    read = {name for path in files for name in re.findall(r"^\\getenv \w+ (\w+)$", path.read_text(), re.MULTILINE)}
    names = {f"POSTGRES_{role}_PASSWORD_FILE" for role in ("MIGRATE", "APP", "BACKUP")}
    assert read == names <= set(services["postgres"]["environment"])


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
    variables = {"COMPOSE_PROFILES": "backup", "BACKUP_DIR": str(tmp_path)}
    changed = parse_config(environment=variables)["services"]["backup"]["volumes"]
    assert {(mount["type"], mount["source"]) for mount in changed if mount["target"] == "/backups"} == {
        ("bind", str(tmp_path))
    }
    for target in mounts:
        assert f" {target}" in BACKUP_DOCKERFILE
    script = re.sub(r"\$\$", "$", services["backup"]["entrypoint"][2])
    for recipient, result in (("", (1, "", "set BACKUP_RECIPIENT in .env\n")), ("age1", (0, "started\n", ""))):
        command = ["sh", "-c", script, "--", "echo", "started"]
        done = subprocess.run(command, env={"BACKUP_RECIPIENT": recipient}, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == result


def test_image_of_the_backups_contains_the_scripts_and_what_they_read() -> None:
    copied = set(re.findall(r"^COPY (\S+) ", BACKUP_DOCKERFILE, re.MULTILINE))
    allowed = (ROOT / "ops" / "backup" / "Dockerfile.dockerignore").read_text()
    assert copied == set(re.findall(r"^!(\S+)", allowed, re.MULTILINE))
    assert copied == {"voiceassist/__init__.py", "ops/postgresql", "ops/backup"}
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", BACKUP_DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "QDRANT_URL"])
def test_plain_text_to_another_server_is_a_decision(name: str) -> None:
    """Compose allows plain text to its own services only."""
    result = compose("--quiet", environment={name: "elsewhere"})
    assert result.returncode != 0
    assert "required variable PLAINTEXT_DEPENDENCIES is missing" in result.stderr
    for value in ("", "redis,qdrant"):
        config = parse_config(environment={name: "elsewhere", "PLAINTEXT_DEPENDENCIES": value})
        server = config["services"]["voiceassist-server"]
        assert server["environment"]["PLAINTEXT_DEPENDENCIES"] == value


def test_image_contains_only_the_packages_and_docs_and_runs_unprivileged() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    copied = set(re.findall(r"^COPY (\w\S*) ", DOCKERFILE, re.MULTILINE))
    allowed = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == allowed == packages | {"manage.py", "requirements/base.txt", "docs"}
    assert "--require-hashes" in DOCKERFILE
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)
    command = "gunicorn -c voiceassist/gunicorn.py voiceassist.wsgi:application"
    assert DOCKERFILE.endswith(f"\nCMD {json.dumps(command.split())}\n")


@pytest.mark.parametrize(("variables", "code"), [("true true", 42), ("true ", 1), (" true", 1), ("false true", 1)])
def test_edge_requires_the_servers_settings(services: Any, tmp_path: Path, variables: str, code: int) -> None:
    (tmp_path / "haproxy").write_text("#!/bin/sh\nexit 42\n")
    (tmp_path / "haproxy").chmod(0o755)
    https_only, behind_proxy = variables.split(" ")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HTTPS_ONLY": https_only, "BEHIND_PROXY": behind_proxy}
    command = [part.replace("$$", "$") for part in services["edge"]["entrypoint"]]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert started.returncode == code
    assert code == 42 or started.stderr == "set HTTPS_ONLY=true and BEHIND_PROXY=true in .env\n"


def image_health_check() -> tuple[list[str], float]:
    match = re.search(r"^HEALTHCHECK .*--timeout=(\d+)s.*\\\n +CMD (\[.+\])$", DOCKERFILE, re.M)
    assert match, "The Dockerfile has no HEALTHCHECK in exec form."
    return json.loads(match[2]), float(match[1])


def compose_health_check() -> tuple[list[str], float]:
    check = parse_config(environment={})["services"]["voiceassist-server"]["healthcheck"]
    assert check["test"][0] == "CMD"
    return check["test"][1:], float(check["timeout"].removesuffix("s"))


HEALTH_CHECKS = {"/health": image_health_check, "/ready": compose_health_check}


def health_check(path: str, **environment: str) -> int:
    """Run the health check of this path as a container engine would, and return its exit code."""
    command, seconds = HEALTH_CHECKS[path]()
    programs = {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin"}  # with a `python`, as in the image
    with ends_within(seconds):  # otherwise a container engine kills it
        process = subprocess.run(command, env=programs | environment, cwd=ROOT, capture_output=True)
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
