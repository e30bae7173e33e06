"""The container files, as far as they can be checked without an engine: Compose's own reading of
docker-compose.yml, and the image's health check run against a server of the test's own."""

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

from health import container_probe
from tests.support.dependency_servers import free_port
from tests.support.voiceassist_server import VoiceAssistServer

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(sysconfig.get_path("scripts"), "docker-compose")
COMPOSE_FILE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

REQUIRED = ("SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "QDRANT_API_KEY")
FILLED = {name: f"value-of-{name}" for name in REQUIRED}
DATA_SERVICES = ("postgres", "redis", "qdrant")
OBSERVERS = ("prometheus", "grafana")  # only with --profile observability


def compose(*options: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs Compose with exactly this environment: neither the caller's own nor an .env counts."""
    return subprocess.run(
        [COMPOSE, "--project-directory", ROOT, "--env-file", "/dev/null", "config", *options],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )


def read(*options: str, environment: dict[str, str]) -> Any:
    result = compose("--format", "json", *options, environment=environment)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def config() -> Any:
    return read(environment=FILLED | {"COMPOSE_PROFILES": "observability", "GRAFANA_PASSWORD": "of-grafana"})


@pytest.fixture
def services(config: Any) -> Any:
    return config["services"]


def test_without_the_profile_nothing_observes_and_no_password_is_wanted() -> None:
    assert set(read(environment=FILLED)["services"]) == {*DATA_SERVICES, "migrate", "voiceassist-server"}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_secret_stops_compose_by_name(name: str) -> None:
    result = compose("--quiet", environment=FILLED | {name: ""})
    assert result.returncode != 0
    assert f"required variable {name} is missing" in result.stderr


def test_no_secret_has_a_value_in_the_file() -> None:
    raw = read("--no-interpolate", environment={})
    for service in raw["services"].values():
        for name, value in service["environment"].items():
            if value is not None and re.search("PASSWORD|SECRET|KEY|AUTH|TOKEN", name):
                assert re.fullmatch(r"\$\{[A-Z_]+:(\?[^}]+|-)\}", value), name
    assert "requirepass ${REDIS_PASSWORD:?" in raw["configs"]["redis"]["content"]


def test_every_port_is_published_on_loopback_only(services: Any) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {port["published"] for port in ports} == {"5432", "6379", "6333", "8000", "9090", "3000"}


def test_data_services_meet_the_server_on_an_internal_network(config: Any, services: Any) -> None:
    assert config["networks"]["data"]["internal"] is True
    for name in DATA_SERVICES:
        assert set(services[name]["networks"]) == {"data", "published"}
    assert set(services["migrate"]["networks"]) == {"data"}
    assert set(services["voiceassist-server"]["networks"]) == {"data", "server", "metrics"}
    # Those who observe reach the server, and neither the data nor the world.
    assert config["networks"]["metrics"]["internal"] is True
    for name in OBSERVERS:
        assert set(services[name]["networks"]) == {"metrics", "published"}
    # The second network of the data services is there for their published port: no way out.
    options = config["networks"]["published"]["driver_opts"]
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_images_are_pinned(services: Any) -> None:
    foreign = {services[name]["image"] for name in DATA_SERVICES + OBSERVERS}
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert len(bases) == 1
    for image in foreign | bases:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-|$)", image), image


def test_every_server_has_a_health_check_and_comes_back(services: Any) -> None:
    for name in (*DATA_SERVICES, *OBSERVERS, "voiceassist-server"):
        assert services[name]["healthcheck"]["test"]
    restarts = {name: service["restart"] for name, service in services.items()}
    assert restarts.pop("migrate") == "no"
    assert set(restarts.values()) == {"unless-stopped"}


def test_data_is_in_named_volumes_and_in_no_log(services: Any) -> None:
    mounts = {name: services[name]["volumes"] for name in DATA_SERVICES + OBSERVERS}
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
    assert {"log_error_verbosity=terse", "log_min_error_statement=panic"} <= options


def test_the_server_starts_last_and_has_time_to_drain(services: Any) -> None:
    server = services["voiceassist-server"]
    awaited = {name: needed["condition"] for name, needed in server["depends_on"].items()}
    after = dict.fromkeys(DATA_SERVICES, "service_healthy")
    assert awaited == after | {"migrate": "service_completed_successfully"}
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    drain, graceful = 5, 30  # seconds: the default of DRAIN_SECONDS, gunicorn's graceful timeout
    assert int(server["stop_grace_period"].removesuffix("s")) > drain + graceful


@pytest.mark.parametrize("name", ["migrate", "voiceassist-server", *OBSERVERS])
def test_the_application_and_those_who_observe_it_run_without_privileges(services: Any, name: str) -> None:
    assert services[name]["read_only"] is True
    assert services[name]["cap_drop"] == ["ALL"]
    assert services[name]["security_opt"] == ["no-new-privileges:true"]
    assert [path.split(":")[0] for path in services[name]["tmpfs"]] == ["/tmp"]


def test_env_example_describes_each_variable_of_compose_in_a_line_above() -> None:
    described = set(re.findall(r"^# \S.*\n(?:# )?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)|^ {4}([A-Z_]+):$", COMPOSE_FILE, re.MULTILINE))
    assert {name for pair in used for name in pair if name} <= described
    assert set(re.findall(r"^([A-Z_]+)=$", ENV_EXAMPLE, re.MULTILINE)) == set(REQUIRED)


def test_each_variable_of_env_example_reaches_the_server() -> None:
    names = set(re.findall(r"^(?:# )?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE))
    names -= {"POSTGRES_PASSWORD", "REDIS_PASSWORD"}  # they do inside the URLs
    names -= {"GRAFANA_PASSWORD"}  # nothing of the server's
    names -= {"VOICEASSIST_ENV"}  # the image has no packages for development
    given = {name: f"given-{name}" for name in names}
    server = read(environment=FILLED | given)["services"]["voiceassist-server"]
    assert server["environment"] == given


def test_what_the_server_is_told_unless_told_otherwise(services: Any) -> None:
    environment = services["voiceassist-server"]["environment"]
    assert {name: value for name, value in environment.items() if value is not None} == {
        "DATABASE_URL": f"postgres://voiceassist:{FILLED['POSTGRES_PASSWORD']}@postgres:5432/voiceassist",
        "REDIS_URL": f"redis://:{FILLED['REDIS_PASSWORD']}@redis:6379/0",
        "QDRANT_URL": "http://qdrant:6333",
        "QDRANT_API_KEY": FILLED["QDRANT_API_KEY"],
        "SECRET_KEY": FILLED["SECRET_KEY"],
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "HTTPS_ONLY": "false",
    }


def test_the_image_holds_the_packages_alone_and_runs_as_an_ordinary_user() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    copied = set(re.findall(r"^COPY (\w\S*) ", DOCKERFILE, re.MULTILINE))
    allowed = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == allowed == packages | {"manage.py", "requirements/base.txt"}
    assert "--require-hashes" in DOCKERFILE
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)
    served = "gunicorn -c voiceassist/gunicorn.py voiceassist.wsgi:application"
    assert DOCKERFILE.endswith(f"\nCMD {json.dumps(served.split())}\n")


def entrypoint(service: Any, programs: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a service's entrypoint and command as a shell here does, with programs and /tmp of the test's own."""
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
def test_prometheus_gets_the_token_and_its_options(services: Any, tmp_path: Path, token: str) -> None:
    started = entrypoint(services["prometheus"], tmp_path, METRICS_TOKEN=token)
    assert started.stdout == f"started {' '.join(services['prometheus']['command'])}\n", started.stderr
    kept = tmp_path / "tmp" / "metrics-token"
    assert kept.read_text() == token
    assert kept.stat().st_mode & 0o077 == 0
    assert f"credentials_file: /{kept.relative_to(tmp_path)}\n" in (ROOT / "ops/prometheus/prometheus.yml").read_text()


def test_grafana_starts_with_a_password_and_never_without_one(services: Any, tmp_path: Path) -> None:
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "of-grafana"
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert entrypoint(services["grafana"], tmp_path / "with", GF_SECURITY_ADMIN_PASSWORD="x").stdout == "started\n"
    refused = entrypoint(services["grafana"], tmp_path / "without", GF_SECURITY_ADMIN_PASSWORD="")
    assert refused.returncode != 0
    assert "set GRAFANA_PASSWORD in .env" in refused.stderr


def image_health_check() -> tuple[list[str], float]:
    found = re.search(r"^HEALTHCHECK .*--timeout=(\d+)s.*\\\n +CMD (\[.+\])$", DOCKERFILE, re.M)
    assert found, "no HEALTHCHECK in exec form"
    return json.loads(found[2]), float(found[1])


def compose_health_check() -> tuple[list[str], float]:
    check = read(environment=FILLED)["services"]["voiceassist-server"]["healthcheck"]
    assert check["test"][0] == "CMD"
    return check["test"][1:], float(check["timeout"].removesuffix("s"))


HEALTH_CHECKS = {"/health": image_health_check, "/ready": compose_health_check}


def health_check(path: str, **environment: str) -> int:
    """Run the check that requests this path as an engine would, and return its exit code."""
    command, seconds = HEALTH_CHECKS[path]()
    programs = {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin"}  # with a `python`, as in the image
    began = time.monotonic()
    process = subprocess.run(command, env=programs | environment, cwd=ROOT, capture_output=True, timeout=10)
    assert time.monotonic() - began < seconds, "an engine would have cut it off"
    return process.returncode


@pytest.mark.parametrize("path", HEALTH_CHECKS)
@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("301 Go", 1), ("503 No", 1), ("", 1)])
def test_the_image_asks_for_liveness_and_compose_for_readiness(path: str, status: str, code: int) -> None:
    with create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(5)
        check = pool.submit(health_check, path, BIND=f"0.0.0.0:{listener.getsockname()[1]}")
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1024).startswith(f"GET {path} HTTP/1.".encode())
            if status:  # else silence on an open connection
                connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
            assert check.result() == code


@pytest.mark.parametrize("path", HEALTH_CHECKS)
def test_a_health_check_fails_on_a_closed_port(path: str) -> None:
    assert health_check(path, BIND="0.0.0.0:1") == 1  # tcpmux, which nobody serves


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "0.0.0.0:{}", "[::]:{}"])
def test_the_server_and_its_health_checks_follow_bind(address: str, tmp_path: Path) -> None:
    port = free_port()
    bind = address.format(port)
    (tmp_path / "bind").write_text(f"{bind}\n")
    with VoiceAssistServer(
        port=port, BIND=bind, HEALTH_OPTIONAL="migrations"
    ):  # the tests' database is migrated under another name
        for path in HEALTH_CHECKS:
            assert health_check(path, BIND=bind) == 0
            assert health_check(path, BIND="127.0.0.1:1", BIND_FILE=str(tmp_path / "bind")) == 0
            assert health_check(path, BIND=f"[::1]:{port}") == (0 if address == "[::]:{}" else 1)


def test_without_bind_a_health_check_connects_to_where_production_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIND", raising=False)
    assert container_probe.server() == ("127.0.0.1", 8000)
    monkeypatch.setenv("BIND", "")
    assert container_probe.server() == ("127.0.0.1", 8000)
