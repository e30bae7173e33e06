"""The manifests below ops/kubernetes, as they stand in the files and as kustomize renders them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "ops" / "kubernetes"
OVERLAY = FOLDER / "overlays" / "production"
KUBECTL = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="no kubectl here")


def load(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def find(documents: list[Any], kind: str, name: str = "voiceassist-server") -> Any:
    """Return the only object of this kind and name. The name of a generated ConfigMap ends in a hash."""
    found = [d for d in documents if d["kind"] == kind and d["metadata"]["name"].startswith(name)]
    assert len(found) == 1, (kind, name)
    return found[0]


def files() -> list[Any]:
    """Return every object of the base, the overlay and the Prometheus Operator's folder, as written."""
    folders = (FOLDER / "base", FOLDER / "prometheus-operator", OVERLAY)
    paths = [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path.name != "kustomization.yaml"]
    return [document for path in paths for document in load(path)]


def config() -> dict[str, str]:
    """Return the variables of the ConfigMap: the base's and the overlay's."""
    merged: dict[str, str] = {}
    for folder in (FOLDER / "base", OVERLAY):
        for generator in load(folder / "kustomization.yaml")[0]["configMapGenerator"]:
            merged |= dict(literal.split("=", 1) for literal in generator["literals"])
    return merged


def render() -> list[Any]:
    assert KUBECTL
    done = subprocess.run(
        [KUBECTL, "kustomize", OVERLAY], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
