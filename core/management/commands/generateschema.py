"""Print the OpenAPI schema, as `spectacular` does.

This replaces DRF's command of the same name, which fails because drf-spectacular generates our schema.
"""

from drf_spectacular.management.commands.spectacular import Command

__all__ = ["Command"]
