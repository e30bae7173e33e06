"""Runs the Deployment and the migrate Job of ops/kubernetes with `podman kube play` against the tests' servers.

Needs the image: run `docker compose build` or `podman build -t voiceassist:local .`.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.dependency_servers import as_application, as_owner, free_port
from tests.support.kubernetes import find, needs_kubectl, render
from tests.support.load_settings import KEY
from tests.support.plugin import API_KEY, Servers
from tests.support.polling import succeeds_within

IMAGE = "voiceassist:local"
DATABASE = "kubernetes"
HOST = "voiceassist.example.org"
TOKEN = "token-of-metrics"


def podman(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=50, **options)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def image() -> None:
    """Skip the tests if podman or the image is missing, also in CI, which builds no image."""
    if shutil.which("podman") is None or podman("image", "exists", IMAGE, check=False).returncode:
        pytest.skip(f"Podman or image not found. Run: podman build -t {IMAGE} .")


def adapt_to_podman(pod: dict[str, Any], secrets: Path) -> dict[str, Any]:
    """Replace what podman 4.3 does not support. The security context stays as it is.

    Podman runs probes with curl, which the image lacks, and publishes ports only on its own network, which can't reach
    the tests' servers. It does not decode the values of a Secret, so a folder replaces each Secret.
    """
    (container,) = pod["containers"]
    unsupported = ("ports", "startupProbe", "livenessProbe", "readinessProbe")
    container = {name: value for name, value in container.items() if name not in unsupported}
    volumes = [
        {"name": v["name"], "hostPath": {"path": str(secrets / v["secret"]["secretName"])}} if "secret" in v else v
        for v in pod["volumes"]
    ]
    tag = podman("image", "inspect", "--format", "{{index .RepoTags 0}}", IMAGE).stdout.strip()
    image = {"image": tag, "imagePullPolicy": "Never"}
    return pod | {"hostNetwork": True, "containers": [container | image], "volumes": volumes}


class Cluster:
    """The secrets, the configuration and the loopback port that the pods share."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._documents = render()
        database = servers.postgres.url.replace("/tests", f"/{DATABASE}")
        secrets = {
            "voiceassist-server/SECRET_KEY": KEY,
            "voiceassist-server/DATABASE_URL": as_application(database),
            "voiceassist-server/REDIS_URL": servers.redis.url,
            "voiceassist-server/QDRANT_API_KEY": API_KEY,
            "voiceassist-server/METRICS_TOKEN": TOKEN,
            "voiceassist-migrate/DATABASE_URL": as_owner(database),
        }
        for name, value in secrets.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(value + "\n")
        config = find(self._documents, "ConfigMap")
        config["data"] |= {"BIND": f"127.0.0.1:{self.port}", "QDRANT_URL": servers.qdrant.url, "DRAIN_SECONDS": "3"}
        # Podman has no namespaces.
        self._config = config | {"metadata": {"name": config["metadata"]["name"]}}

    @contextmanager
    def play(self, kind: str, name: str) -> Iterator[str]:
        """Run the object's pod and yield the container's id. For a Job, which podman 4.3 lacks, run its pod."""
        manifest = find(self._documents, kind, name)
        template = manifest["spec"]["template"]
        template["spec"] = adapt_to_podman(template["spec"], self._folder)
        del manifest["metadata"]["namespace"]
        if kind == "Job":
            manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        # In Kubernetes `env` overrides `envFrom`, in podman 4.3 it does not.
        own = {item["name"] for item in template["spec"]["containers"][0].get("env", ())}
        data = {key: value for key, value in self._config["data"].items() if key not in own}
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all([self._config | {"data": data}, manifest]))
        try:
            yield podman("kube", "play", str(path)).stdout.split()[-1]
        finally:
            podman("kube", "down", str(path))


@pytest.fixture(scope="module")
def cluster(image: None, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    servers.postgres.execute(f"CREATE DATABASE {DATABASE}")
    yield Cluster(tmp_path_factory.mktemp("kubernetes"), servers)
    servers.postgres.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@needs_kubectl
def test_job_migrates_and_unprivileged_deployment_serves_and_drains(cluster: Cluster) -> None:
    with cluster.play("Job", "voiceassist-migrate") as job:
        code = podman("wait", job).stdout.strip()
        assert code == "0", podman("logs", job).stdout
    with cluster.play("Deployment", "voiceassist-server") as container:
        wait_until_ready(cluster, container)
        assert_restricted(container)
        assert_configured(cluster, container)
        stopping = subprocess.Popen(["podman", "stop", "--time", "60", container], stdout=subprocess.DEVNULL)
        assert succeeds_within(60, lambda: readiness(cluster) == (503, "draining"))
        assert httpx.get(f"{cluster.url}/health").status_code == 200
        assert stopping.wait(50) == 0
        state = json.loads(podman("inspect", container).stdout)[0]["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 0), podman("logs", container).stdout


def readiness(cluster: Cluster) -> tuple[int, str]:
    response = httpx.get(f"{cluster.url}/ready")
    body = response.json()
    return response.status_code, (body["data"] or body["error"]["details"])["status"]


def wait_until_ready(cluster: Cluster, container: str) -> None:
    def is_ready() -> bool:
        with suppress(httpx.TransportError):  # not listening yet
            return readiness(cluster) == (200, "ready")
        return False

    assert succeeds_within(60, is_ready), podman("logs", container).stdout


def assert_restricted(container: str) -> None:
    status = podman("exec", container, "cat", "/proc/1/status").stdout
    process = dict(line.split(":\t", 1) for line in status.splitlines())
    assert process["Uid"].split() == process["Gid"].split() == ["10001"] * 4
    assert process["CapEff"] == process["CapBnd"] == "0" * 16
    assert process["NoNewPrivs"] == "1"
    assert process["Seccomp"] == "2"  # seccomp mode 2: a filter is active
    mounts = dict(line.split()[1:4:2] for line in podman("exec", container, "cat", "/proc/mounts").stdout.splitlines())
    assert "ro" in mounts["/"].split(",")
    for path, code in {"/app": 1, "/etc/voiceassist/server": 1, "/tmp": 0, "/dev/shm": 0}.items():
        assert podman("exec", container, "touch", f"{path}/file", check=False).returncode == code, path


def assert_configured(cluster: Cluster, container: str) -> None:
    for path in ("/health", "/ready"):
        podman("exec", container, "python", "-I", "-S", "health/container_probe.py", path, "4")
    environment = podman("exec", container, "env").stdout
    assert "WEB_CONCURRENCY=2" in environment.splitlines()  # the requested CPUs
    assert not {"SECRET_KEY=", "DATABASE_URL=", "REDIS_URL="} & {
        line.split("=")[0] + "=" for line in environment.split()
    }
    assert httpx.get(f"{cluster.url}/metrics").status_code == 401
    assert httpx.get(f"{cluster.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    proxied = {"Host": HOST, "X-Forwarded-Proto": "https"}
    assert httpx.get(cluster.url, headers=proxied).status_code == 200
    assert httpx.get(cluster.url, headers={"Host": HOST}).status_code == 301
