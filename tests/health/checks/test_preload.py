"""What gunicorn's master loads for the checks of all workers."""

import subprocess
import sys

from tests.support.voiceassist_server import ROOT

PROGRAM = """if True:
    import sys
    import django
    django.setup()
    from health import checks, readiness
    checks.preload()
    before = set(sys.modules)
    assert len(readiness.runner().report().results) == 5
    print(*sorted(name for name in set(sys.modules) - before if name.startswith("django") or "migrations" in name))
"""


def test_checks_of_workers_load_no_modules() -> None:
    """Each worker would need 2 MiB more."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
