"""Stop the embedded servers: `python -m voiceassist.embedded stop`."""

import sys

from voiceassist.embedded import stop
from voiceassist.embedded.programs import EmbeddedServerError

if sys.argv[1:] != ["stop"]:
    raise SystemExit("usage: python -m voiceassist.embedded stop")
try:
    stopped = stop()
except EmbeddedServerError as error:
    raise SystemExit(f"voiceassist: {error}") from None
for name in stopped:
    print(f"stopped {name}")
