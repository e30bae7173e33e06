"""Execute the settings with other environment variables, without a new process."""

import os
import runpy
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from voiceassist import settings

KEY = "a-key-of-the-tests-that-is-long-enough-for-production-0123456789"
PRODUCTION = {
    "VOICEASSIST_ENV": "production",
    "SECRET_KEY": KEY,
    "ALLOWED_HOSTS": "example.org",
    "DATABASE_URL": "postgres://user:password@db.example.org:5432/name?sslmode=verify-full",
    "REDIS_URL": "rediss://redis.example.org:6379/0",
    "QDRANT_URL": "https://qdrant.example.org:6333",
}


def load_settings(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that exactly these variables result in. Raises SystemExit for an invalid one."""
    with patch.dict(os.environ, environment, clear=True):
        return runpy.run_path(settings.__file__)
