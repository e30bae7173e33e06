"""The VoiceAssist backend: a voice assistant for clinicians."""

import sys

__version__ = "0.1.0"

# structlog takes rich where that is installed, for a formatter that we don't use: most of the time that it takes to
# import structlog, and 4 MB of each process. health.management.checkdeps_output, which wants rich, finds it.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
import structlog  # noqa: E402, F401

if sys.modules["rich"] is None:
    del sys.modules["rich"]
