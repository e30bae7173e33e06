"""The manifests in ops/kubernetes, as written and as kustomize renders them."""

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
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="kubectl not found. Rendered manifests were not tested.")


def load(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def find(documents: list[Any], kind: str, name: str = "voiceassist-server") -> Any:
    """Return the only object of this kind whose name starts with `name` (a generated ConfigMap's ends in a hash)."""
    matches = [d for d in documents if d["kind"] == kind and d["metadata"]["name"].startswith(name)]
    assert len(matches) == 1, (kind, name)
    return matches[0]


def files() -> list[Any]:
    """Return every object of base/, backup/, prometheus-operator/ and the overlay, as written."""
    folders = (FOLDER / "base", FOLDER / "backup", FOLDER / "prometheus-operator", OVERLAY)
    paths = [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path.name != "kustomization.yaml"]
    return [document for path in paths for document in load(path)]


def config(name: str = "voiceassist-server") -> dict[str, str]:
    """Return the variables of a generated ConfigMap, merged from the base, the backups and the overlay."""
    merged: dict[str, str] = {}
    for folder in (FOLDER / "base", FOLDER / "backup", OVERLAY):
        for generator in load(folder / "kustomization.yaml")[0]["configMapGenerator"]:
            if generator["name"] == name:
                merged |= dict(literal.split("=", 1) for literal in generator["literals"])
    return merged


def render() -> list[Any]:
    assert KUBECTL
    result = subprocess.run(
        [KUBECTL, "kustomize", OVERLAY], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))
