"""The manifests of ops/kubernetes match each other and the server. `make kubernetes` validates their syntax."""

import re
from pathlib import Path

import pytest
import yaml

from core.clients.postgresql.connection_limit import CONNECTIONS_OF_WORKER, max_connections
from core.database_roles import BACKUP_ROLE
from core.jobs.worker import STOP_TIMEOUT
from tests.support.kubernetes import FOLDER, OVERLAY, config, files, find, load, needs_kubectl, render
from tests.support.load_settings import PRODUCTION
from tests.support.voiceassist_server import ROOT
from tests.voiceassist.test_settings import run
from voiceassist import settings

DOCUMENTS = files()
DEPLOYMENT = find(DOCUMENTS, "Deployment")
WORKER = find(DOCUMENTS, "Deployment", "voiceassist-worker")
JOB = find(DOCUMENTS, "Job", "voiceassist-migrate")
POD = DEPLOYMENT["spec"]["template"]["spec"]
PODS = {"server": POD, "migrate": JOB["spec"]["template"]["spec"], "worker": WORKER["spec"]["template"]["spec"]}
RECEIVER = find(DOCUMENTS, "StatefulSet", "voiceassist-backup-wal")["spec"]["template"]
SCHEDULES = {name: find(DOCUMENTS, "CronJob", f"voiceassist-backup-{name}")["spec"] for name in ("base", "dump")}
BACKUP_PODS = {
    "wal": RECEIVER["spec"],
    **{name: schedule["jobTemplate"]["spec"]["template"]["spec"] for name, schedule in SCHEDULES.items()},
}
SERVER = POD["containers"][0]
SECRETS = {secret["metadata"]["name"]: secret["stringData"] for secret in load(FOLDER / "secrets.example.yaml")}
GRACEFUL_TIMEOUT = 30  # seconds: gunicorn's, see voiceassist/gunicorn.py


@needs_kubectl
def test_overlay_renders_every_object_in_its_namespace() -> None:
    rendered = render()
    expected = sorted((d["kind"], d["metadata"]["name"]) for d in DOCUMENTS)
    assert sorted((d["kind"], d["metadata"]["name"]) for d in rendered if d["kind"] != "ConfigMap") == expected
    namespace = find(rendered, "Namespace", "voiceassist")["metadata"]["name"]
    assert {d["metadata"].get("namespace") for d in rendered if d["kind"] != "Namespace"} == {namespace}
    assert {secret["metadata"]["namespace"] for secret in load(FOLDER / "secrets.example.yaml")} == {namespace}
    generated = find(rendered, "ConfigMap")
    assert generated["data"] == config()
    assert find(rendered, "ConfigMap", "voiceassist-backup")["data"] == config("voiceassist-backup")
    for kind, name in (
        ("Deployment", "voiceassist-server"),
        ("Deployment", "voiceassist-worker"),
        ("Job", "voiceassist-migrate"),
    ):
        container = find(rendered, kind, name)["spec"]["template"]["spec"]["containers"][0]
        assert container["envFrom"] == [{"configMapRef": {"name": generated["metadata"]["name"]}}]
        assert container["image"].startswith("registry.example.org/voiceassist:")


def test_probe_timeouts_exceed_the_servers_response_times() -> None:
    probes = {name: SERVER[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
    assert "HEALTH_TIMEOUT" not in config()
    assert probes["readiness"]["timeoutSeconds"] > 2.0 + 0.25  # the default of HEALTH_TIMEOUT plus the tolerance
    assert probes["readiness"]["failureThreshold"] > 1
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 60


def test_pod_has_time_to_drain() -> None:
    assert POD["terminationGracePeriodSeconds"] >= float(config()["DRAIN_SECONDS"]) + GRACEFUL_TIMEOUT + 10


def test_worker_is_probed_and_has_time_to_finish_jobs() -> None:
    pod = PODS["worker"]
    (container,) = pod["containers"]
    assert container["command"][:3] == ["python", "manage.py", "worker"]
    assert container["command"][-1].endswith(f":{container['ports'][0]['containerPort']}")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": container["ports"][0]["name"]}
    assert pod["terminationGracePeriodSeconds"] >= STOP_TIMEOUT + 10
    assert WORKER["spec"]["replicas"] >= 2


@pytest.mark.parametrize("name", [*PODS, *BACKUP_PODS])
def test_pods_run_without_privileges(name: str) -> None:
    pod = (PODS | BACKUP_PODS)[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert "USER 10001:10001\n" in (ROOT / "Dockerfile").read_text()
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert writable == (["/tmp"] if name in PODS else ["/tmp", "/backups", "/staging"])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["tmp"]["emptyDir"]["medium"] == "Memory"


def test_configmap_has_known_variables_and_no_secrets() -> None:
    names = {name.removesuffix("_FILE") for name in config()}
    assert names <= settings.ENVIRONMENT_VARIABLES
    assert not {d["kind"] for d in DOCUMENTS} & {"Secret"}
    assert "secretGenerator" not in yaml.safe_dump(load(OVERLAY / "kustomization.yaml"))
    assert set(SECRETS["voiceassist-server"]) & set(config()) == set()


@pytest.mark.parametrize("name", PODS)
def test_secret_files_are_keys_of_mounted_secrets(name: str) -> None:
    pod = PODS[name]
    container = pod["containers"][0]
    variables = config() | {item["name"]: item.get("value", "") for item in container.get("env", [])}
    secret_of = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    mounted = {m["mountPath"]: secret_of[m["name"]] for m in container["volumeMounts"] if m["name"] in secret_of}
    files = {variable: Path(path) for variable, path in variables.items() if variable.endswith("_FILE")}
    assert len(files) == 5, files
    for variable, path in files.items():
        secret = mounted[str(path.parent)]
        assert path.name == variable.removesuffix("_FILE")
        assert path.name in SECRETS[secret["secretName"]]
        assert secret["defaultMode"] == 0o440
    owner = "migrate" if name == "migrate" else "server"
    assert files["DATABASE_URL_FILE"] == Path(f"/etc/voiceassist/{owner}/DATABASE_URL")


@pytest.mark.parametrize("name", ["SECRET_KEY", "DATABASE_URL", "REDIS_URL"])
def test_server_rejects_the_empty_example_secrets(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SECRETS["voiceassist-server"][name])
    environment = {variable: value for variable, value in PRODUCTION.items() if variable != name}
    result = run(["manage.py", "check"], environment | {f"{name}_FILE": str(tmp_path / name)})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"voiceassist: {name}: Required in production.")


def test_metrics_token_is_required_because_the_ingress_routes_metrics() -> None:
    (rule,) = find(DOCUMENTS, "Ingress")["spec"]["rules"]
    assert [(path["path"], path["pathType"]) for path in rule["http"]["paths"]] == [("/", "Prefix")]
    server = (FOLDER / "secrets.example.yaml").read_text().split("---")[0]
    commented = re.findall(r'((?:^  # .+\n)+)  ([\w.]+): ""$', server, re.MULTILINE)
    assert {key for _, key in commented} == set(SECRETS["voiceassist-server"])
    assert {key for comment, key in commented if "Optional:" in comment} == {"QDRANT_API_KEY", "ca.crt"}
    assert "`METRICS_TOKEN` is required" in (FOLDER / "README.md").read_text()


def test_backups_use_the_scripts_their_variables_and_their_secret() -> None:
    variables, secret = config("voiceassist-backup"), SECRETS["voiceassist-backup"]
    assert variables["PGUSER"] == BACKUP_ROLE
    assert {Path(variables[name]).name for name in ("BACKUP_PASSWORD_FILE", "PGSSLROOTCERT")} == set(secret)
    read = (ROOT / "ops" / "backup" / "common.sh").read_text() + (ROOT / "ops" / "backup" / "backup.sh").read_text()
    assert [name for name in variables if name not in read and name != "PGPORT"] == []
    for name, pod in BACKUP_PODS.items():
        container = pod["containers"][0]
        script, *arguments = container["command"]
        assert (ROOT / "ops" / "backup" / script).exists()
        assert arguments == ([] if name == "wal" else [name])
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/backups", "/staging"}
        (mounted,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
        assert (mounted["secretName"], mounted["defaultMode"]) == ("voiceassist-backup", 0o440)
    assert all(schedule["concurrencyPolicy"] == "Forbid" for schedule in SCHEDULES.values())


def test_backups_reach_only_postgresql() -> None:
    (policy,) = (d for d in DOCUMENTS if d["metadata"]["name"] == "voiceassist-backup" and d["kind"] == "NetworkPolicy")
    labels = policy["spec"]["podSelector"]["matchLabels"]
    templates = [RECEIVER, *(schedule["jobTemplate"]["spec"]["template"] for schedule in SCHEDULES.values())]
    assert all(labels.items() <= template["metadata"]["labels"].items() for template in templates)
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]] == [53, 53, 5432]
    others = [d for d in DOCUMENTS if d["kind"] == "NetworkPolicy" and d is not policy]
    for template in templates:  # policies add up
        for other in others:
            assert not other["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def select_pods(selector: dict[str, str]) -> set[str]:
    """Return the components whose pods have these labels."""
    pod_labels = [d["spec"]["template"]["metadata"]["labels"] for d in (DEPLOYMENT, JOB, WORKER)]
    return {labels["app.kubernetes.io/component"] for labels in pod_labels if selector.items() <= labels.items()}


def test_selectors_match_the_servers_pods() -> None:
    assert select_pods(find(DOCUMENTS, "Service")["spec"]["selector"]) == {"server"}
    for component, deployment in (("server", DEPLOYMENT), ("worker", WORKER)):
        constraints = PODS[component]["topologySpreadConstraints"]
        budget = find(DOCUMENTS, "PodDisruptionBudget", f"voiceassist-{component}")
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            budget["spec"]["selector"]["matchLabels"],
            *(constraint["labelSelector"]["matchLabels"] for constraint in constraints),
        ):
            assert select_pods(selector) == {component}
    scaler = find(DOCUMENTS, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    policies = {d["metadata"]["name"]: d["spec"] for d in DOCUMENTS if d["kind"] == "NetworkPolicy"}
    default = policies["voiceassist"]
    assert select_pods(default["podSelector"]["matchLabels"]) == {"server", "migrate", "worker"}
    assert default["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default
    for component in ("server", "worker"):
        assert select_pods(policies[f"voiceassist-{component}"]["podSelector"]["matchLabels"]) == {component}
    ports = [port["port"] for rule in default["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 5432, 6379, 26379, 6333, 4318]


def test_autoscaler_respects_postgresqls_connection_limit() -> None:
    scaler = find(DOCUMENTS, "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in DEPLOYMENT["spec"]
    assert scaler["minReplicas"] >= 2
    pods = scaler["maxReplicas"] + DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    workers = int(SERVER["resources"]["requests"]["cpu"])
    connections = pods * max_connections(workers, threads=4)  # the default of WEB_THREADS; see docs/OPERATIONS.md
    connections += WORKER["spec"]["replicas"] * CONNECTIONS_OF_WORKER
    assert WORKER["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    assert connections + 2 + 3 <= 100  # migrate, superuser_reserved_connections; default of max_connections
    (variable,) = SERVER["env"]
    assert variable == {"name": "WEB_CONCURRENCY", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}


def test_prometheus_operator_uses_the_alerts_and_their_job() -> None:
    rule, monitor = find(DOCUMENTS, "PrometheusRule"), find(DOCUMENTS, "ServiceMonitor")["spec"]
    alerts = load(ROOT / "ops" / "prometheus" / "alerts.yml")[0]
    assert rule["spec"] == alerts, "ops/prometheus/alerts.yml has changed. Run: make prometheus-rule"
    service = find(DOCUMENTS, "Service")
    assert f'job="{service["metadata"]["name"]}"' in yaml.safe_dump(alerts)
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    pod_monitor = find(DOCUMENTS, "PodMonitor", "voiceassist-worker")["spec"]
    assert select_pods(pod_monitor["selector"]["matchLabels"]) == {"worker"}
    (pod_endpoint,) = pod_monitor["podMetricsEndpoints"]
    assert pod_endpoint["port"] == PODS["worker"]["containers"][0]["ports"][0]["name"]
    assert pod_endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "voiceassist-worker"}]
    for monitored in (endpoint, pod_endpoint):
        credentials = monitored["authorization"]["credentials"]
        assert credentials["key"] in SECRETS[credentials["name"]]
