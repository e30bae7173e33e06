from django.apps import AppConfig
from django.contrib.admin import apps


class CoreConfig(AppConfig):
    default = True
    name = "core"
    verbose_name = "VoiceAssist"

    def ready(self) -> None:
        from core import checks  # noqa: F401  # registers system checks
        from core.auth import session_expiry  # noqa: F401  # registers signal receivers and system checks


class AdminConfig(apps.AdminConfig):
    default = False
    default_site = "core.admin_site.AdminSite"
