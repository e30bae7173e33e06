"""A real group of Redis servers that Sentinels watch, from the wheel: one primary, one replica, three Sentinels."""

import time
from pathlib import Path

from tests.proxy import TlsFront
from tests.servers import Server, Valkey
from voiceassist.embedded.programs import valkey_program

PASSWORD, QUOTED = "re:dis,pa/ss@word", "re:dis,pa%2Fss%40word"  # a comma and a colon as they are
SENTINEL_PASSWORD, SENTINEL_QUOTED = "sen:tinel,pa/ss", "sen:tinel,pa/ss"
SERVICE = "MyPrimary"
DOWN_AFTER = 1.0  # seconds until a Sentinel takes a silent server for lost


class Sentinel(Server):
    def __init__(self, folder: Path, primary: int) -> None:
        super().__init__(folder)
        self._config = folder / "sentinel.conf"
        self._config.write_text(f"""
            bind 127.0.0.1
            port {self.port}
            dir {folder}
            requirepass {SENTINEL_PASSWORD}
            sentinel monitor {SERVICE} 127.0.0.1 {primary} 2
            sentinel auth-pass {SERVICE} {PASSWORD}
            sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER * 1000:.0f}
            sentinel failover-timeout {SERVICE} 5000
            sentinel sentinel-pass {SENTINEL_PASSWORD}
        """)
