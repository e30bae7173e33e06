"""DRF's command for the OpenAPI schema, which fails because drf-spectacular generates the schema of this project.

It does the same as `spectacular`.
"""

from drf_spectacular.management.commands.spectacular import Command

__all__ = ["Command"]
