"""Fixtures of the clients' tests."""

from tests.support.readiness import use_url

__all__ = ["use_url"]
