"""Uncaught exceptions of a command at a terminal, in production. `test_logs` has those that are logged."""

import os
import subprocess
from contextlib import suppress

from tests.support.forked_python import ForkedPython
from tests.support.load_settings import PRODUCTION

PROGRAM = "import django; django.setup(); raise ValueError('quotes ' + 'the data')"


def test_terminal_shows_the_traceback() -> None:
    reader, writer = os.openpty()
    environment = {**os.environ, **PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings", "PYTHON_COLORS": "0"}
    with ForkedPython(["-c", PROGRAM], env=environment, stdout=subprocess.DEVNULL, stderr=writer) as process:
        os.close(writer)
        output = b""
        with suppress(OSError):  # raised when the program has ended
            while chunk := os.read(reader, 4096):
                output += chunk
        os.close(reader)
    assert process.returncode == 1
    assert b"Traceback (most recent call last):" in output
    assert b"ValueError: quotes the data" in output
