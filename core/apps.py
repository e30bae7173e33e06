from django.apps import AppConfig
from django.contrib.admin import apps


class CoreConfig(AppConfig):
    default = True
    name = "core"
    verbose_name = "VoiceAssist"
    # For `Authenticator`, whose key is django-otp's, and for many-to-many tables. All other keys are UUIDs.
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        from core import checks  # noqa: F401  # registers system checks
        from core.auth import session_expiry  # noqa: F401  # registers signal receivers and system checks


class AdminConfig(apps.AdminConfig):
    default = False
    default_site = "core.admin_site.AdminSite"
