"""docker-compose.yml as Compose parses it, without containers."""

import json
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(sysconfig.get_path("scripts"), "docker-compose")
COMPOSE_FILE = (ROOT / "docker-compose.yml").read_text()
# Names of the files in secrets/. No container may have their content in its environment or command.
SECRETS = set(re.findall(r"^  ([A-Z_]+): \{file: secrets/\1\}$", COMPOSE_FILE, re.MULTILINE))


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
