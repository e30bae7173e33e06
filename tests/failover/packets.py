"""Drop the packets of one loopback address to simulate a network partition. This needs root and iptables."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

IPTABLES = shutil.which("iptables", path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def _iptables(*arguments: str) -> bool:
    assert IPTABLES
    return subprocess.run([IPTABLES, "-w", "10", *arguments], capture_output=True).returncode == 0


def can_drop() -> bool:
    """Return whether this process can change the packet filter."""
    return os.geteuid() == 0 and IPTABLES is not None and _iptables("-L", "INPUT", "-n")


# CI installs iptables, but its kernel may refuse the rules.
needs_iptables = pytest.mark.skipif(
    not can_drop() and (IPTABLES is not None or "CI" not in os.environ),
    reason="dropping packets needs root, iptables and a kernel that lets root use it",
)


@contextmanager
def dropped(address: str) -> Iterator[None]:
    """Drop every TCP packet to and from `address`. Neither end of a connection gets a reset or a refusal.

    Packets on loopback pass INPUT once in each direction.
    """
    rules = [["INPUT", "-i", "lo", "-p", "tcp", end, address, "-j", "DROP"] for end in ("--source", "--destination")]
    try:
        for rule in rules:
            assert _iptables("-I", *rule), "iptables refuses a rule"
        yield
    finally:
        for rule in rules:
            _iptables("-D", *rule)
