"""The container files, as far as they can be checked without an engine: Compose's own reading of
docker-compose.yml, and the image's health check run against a server of the test's own."""

import json
import re
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = Path(sysconfig.get_path("scripts"), "docker-compose")
COMPOSE_FILE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

REQUIRED = ("SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "QDRANT_API_KEY")
FILLED = {name: f"value-of-{name}" for name in REQUIRED}
DATA_SERVICES = ("postgres", "redis", "qdrant")


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
    return read(environment=FILLED)


@pytest.fixture
def services(config: Any) -> Any:
    return config["services"]


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
                assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), name
    assert "requirepass ${REDIS_PASSWORD:?" in raw["configs"]["redis"]["content"]


def test_every_port_is_published_on_loopback_only(services: Any) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {port["published"] for port in ports} == {"5432", "6379", "6333", "8000"}


def test_data_services_meet_the_server_on_an_internal_network(config: Any, services: Any) -> None:
    assert config["networks"]["data"]["internal"] is True
    for name in DATA_SERVICES:
        assert set(services[name]["networks"]) == {"data", "published"}
    assert set(services["migrate"]["networks"]) == {"data"}
    assert set(services["voiceassist-server"]["networks"]) == {"data", "server"}
    # The second network of the data services is there for their published port: no way out.
    options = config["networks"]["published"]["driver_opts"]
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_images_are_pinned(services: Any) -> None:
    foreign = {services[name]["image"] for name in DATA_SERVICES}
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert len(bases) == 1
    for image in foreign | bases:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-|$)", image), image


def test_every_server_has_a_health_check_and_comes_back(services: Any) -> None:
    for name in DATA_SERVICES:
        assert services[name]["healthcheck"]["test"]
    assert "healthcheck" not in services["voiceassist-server"]  # the image's own holds
    restarts = {name: service["restart"] for name, service in services.items()}
    assert restarts.pop("migrate") == "no"
    assert set(restarts.values()) == {"unless-stopped"}


def test_data_is_in_named_volumes_and_in_no_log(services: Any) -> None:
    mounts = {name: services[name]["volumes"] for name in DATA_SERVICES}
    assert {name: [(m["source"], m["target"]) for m in mounts[name]] for name in mounts} == {
        "postgres": [("postgres", "/var/lib/postgresql")],
        "redis": [("redis", "/data")],
        "qdrant": [("qdrant", "/qdrant/storage")],
    }
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


@pytest.mark.parametrize("name", ["migrate", "voiceassist-server"])
def test_the_application_runs_without_privileges(services: Any, name: str) -> None:
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


def image_health_check(port: int) -> int:
    """Runs the Dockerfile's HEALTHCHECK against this port of the loopback; its exit code."""
    found = re.search(r"^HEALTHCHECK .*--timeout=(\d+)s.*\\\n +CMD (\[.+\])$", DOCKERFILE, re.M)
    assert found, "no HEALTHCHECK in exec form"
    program, *arguments = [part.replace("8000", str(port)) for part in json.loads(found[2])]
    assert program == "python"
    began = time.monotonic()
    process = subprocess.run([sys.executable, *arguments], capture_output=True, timeout=10)
    assert time.monotonic() - began < int(found[1]), "an engine would have cut it off"
    return process.returncode


@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("301 Go", 1), ("500 No", 1), ("", 1)])
def test_the_image_health_check_asks_health(status: str, code: int) -> None:
    with create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(5)
        check = pool.submit(image_health_check, listener.getsockname()[1])
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1024).startswith(b"GET /health HTTP/1.")
            if status:  # else silence on an open connection
                connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
            assert check.result() == code


def test_the_image_health_check_fails_on_a_closed_port() -> None:
    assert image_health_check(1) == 1  # tcpmux, which nobody serves
