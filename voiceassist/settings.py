"""Django's settings, and the only reader of the environment.

`.env.example` and the README describe each variable; a test holds the three together.
"""

import os
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from voiceassist import __version__
from voiceassist.cpus import usable_cpus
from voiceassist.environment import Environment
from voiceassist.logs.config import logging_config

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = BASE_DIR / "var"
SERVICE = "voiceassist"
VERSION = __version__
DEPENDENCIES = ("postgres", "redis", "qdrant", "migrations")

env = Environment()
PRODUCTION = env.choice("VOICEASSIST_ENV", "development", ("development", "production")) == "production"


def _development_secret_key() -> str:
    """A key made once per checkout: sessions outlive a restart, and no secret stands in the repository."""
    path = VAR / "secret-key"
    try:
        VAR.mkdir(exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(64))
    except FileExistsError:
        pass
    except OSError:
        return secrets.token_urlsafe(64)
    return path.read_text() or secrets.token_urlsafe(64)


# No page of Django's debugger, anywhere: it shows values that may be PHI.
DEBUG = False
SECRET_KEY = env.text("SECRET_KEY", required=PRODUCTION) or _development_secret_key()
ALLOWED_HOSTS = env.listing("ALLOWED_HOSTS", "" if PRODUCTION else "localhost,127.0.0.1,[::1]", required=PRODUCTION)
CSRF_TRUSTED_ORIGINS = env.listing("CSRF_TRUSTED_ORIGINS")

# Dependencies. In development the ones without a URL are embedded servers, see voiceassist.embedded.
EMBEDDED_SERVERS: tuple[str, ...] = ()
_embedded_database = _embedded_redis = None
if not PRODUCTION:
    EMBEDDED_SERVERS = tuple(
        server for server, variable in (("postgres", "DATABASE_URL"), ("redis", "REDIS_URL")) if not env.text(variable)
    )
if EMBEDDED_SERVERS:
    from voiceassist import embedded

    _embedded_database, _embedded_redis = embedded.postgres_url(VAR), embedded.redis_url(VAR)

DATABASE_TIMEOUT = env.seconds("DATABASE_TIMEOUT", 15.0, positive=True)
DATABASES = {
    "default": {
        **env.database("DATABASE_URL", default=_embedded_database, required=PRODUCTION),
        "ENGINE": "core.clients.postgresql",
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        # A cursor on the server is one of its connection: behind a pooler the next page is asked of another one.
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }
}
_database_defaults = {  # of libpq; the URL may override each of them
    "application_name": SERVICE,
    "connect_timeout": 5,  # seconds, shared among all hosts and addresses
    # A peer that has vanished is noticed after 10 + 3 * 5 seconds, and data that it doesn't acknowledge as soon as a
    # request has to give up. These cover connections without a time limit, such as those of commands.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": max(1000, round(DATABASE_TIMEOUT * 1000)),
}
_server_defaults = {
    # Below DATABASE_TIMEOUT, so that waiting for a lock ends with an error that names the cause.
    "lock_timeout": f"{max(1, round(DATABASE_TIMEOUT * 1000 * 2 / 3))}ms",
    # A transaction whose client is gone or stuck ends, and with it its locks.
    "idle_in_transaction_session_timeout": "60s",
    # A statement that a request has given up on ends, since nobody reads its result.
    "client_connection_check_interval": "2s",
}
_url_options: dict[str, Any] = DATABASES["default"]["OPTIONS"]
_server_options = " ".join(f"-c {name}={value}" for name, value in _server_defaults.items())
# The URL's own come last, because the last one counts. `?options=` sends none, for poolers that refuse them.
_options = _url_options.get("options")
DATABASES["default"]["OPTIONS"] = {
    **_database_defaults,
    **_url_options,
    "options": "" if _options == "" else f"{_server_options} {_options or ''}".rstrip(),
    # Values are sent beside the statement, not inside it, where pg_stat_activity and the log would show them.
    "server_side_binding": True,
}

OTEL_EXPORTER_OTLP_ENDPOINT = env.url("OTEL_EXPORTER_OTLP_ENDPOINT", ("http", "https"), required=False)
OTEL_SERVICE_NAME = env.text("OTEL_SERVICE_NAME", SERVICE)
if not OTEL_EXPORTER_OTLP_ENDPOINT:
    # redis-py imports OpenTelemetry wherever that is installed: 50 ms and 8 MB of each process for nothing.
    sys.modules.setdefault("opentelemetry", None)  # type: ignore[arg-type]
REDIS_URL = env.redis_url("REDIS_URL", default=_embedded_redis, required=PRODUCTION)
CACHES = {
    "default": {
        "BACKEND": "django_prometheus.cache.backends.redis.RedisCache",
        "LOCATION": [REDIS_URL],  # a list, because django-redis splits a string at commas, also those of a password
        "KEY_PREFIX": SERVICE,
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": 1,
            "SOCKET_TIMEOUT": 1,
            # An outage is a miss: what is cached is in the database too, and readiness is what tells of outages.
            "IGNORE_EXCEPTIONS": True,
            "REDIS_CLIENT_CLASS": "core.clients.redis.Client",
            "CONNECTION_FACTORY": "core.clients.redis.ConnectionFactory",
        },
    }
}

QDRANT_URL = env.url("QDRANT_URL", ("http", "https"), required=PRODUCTION, default_port=6333)
QDRANT_API_KEY = env.text("QDRANT_API_KEY")
QDRANT_PATH = VAR / "qdrant"  # where the client's local mode keeps its data when there is no URL

# Readiness.
HEALTH_TIMEOUT = env.seconds("HEALTH_TIMEOUT", 2.0, positive=True)
HEALTH_MAX_AGE = env.seconds("HEALTH_MAX_AGE", 1.0)
HEALTH_OPTIONAL = env.subset("HEALTH_OPTIONAL", DEPENDENCIES)
DRAIN_SECONDS = env.seconds("DRAIN_SECONDS", 5.0)
METRICS_TOKEN = env.text("METRICS_TOKEN")

# Serving, read by voiceassist.gunicorn.
BIND = env.address("BIND", "0.0.0.0:8000" if PRODUCTION else "127.0.0.1:8000")
WEB_CONCURRENCY = env.count("WEB_CONCURRENCY", usable_cpus())
WEB_THREADS = env.count("WEB_THREADS", 4)

INSTALLED_APPS = [
    "core",
    "health",
    "core.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "axes",
    "django_prometheus",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]

MIDDLEWARE = [
    "core.http.request_logging.RequestMiddleware",  # first: a trace id and a log line for every answer
    "health.middleware.ProbeMiddleware",  # answers probes past all that follows
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "core.http.security_headers.SecurityHeadersMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "health.middleware.StatusAccessMiddleware",  # sets a cookie that opens the status page while the database is down
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "core.auth.session_expiry.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "axes.middleware.AxesMiddleware",
    "core.http.prometheus.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "voiceassist.urls"
WSGI_APPLICATION = "voiceassist.wsgi.application"
APPEND_SLASH = True
# No page takes a file: of one that is sent nothing is written to disk.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
CSRF_FAILURE_VIEW = "core.api.exceptions.csrf_failure"
DEFAULT_EXCEPTION_REPORTER = "core.phi.Reporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "core.phi.ReporterFilter"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_USER_MODEL = "core.User"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",  # first: refuses who is locked out before a password is looked at
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}", "OPTIONS": options}
    for name, options in (
        ("UserAttributeSimilarityValidator", {"user_attributes": ("email", "full_name")}),
        ("MinimumLengthValidator", {"min_length": 12}),
        ("CommonPasswordValidator", {}),
        ("NumericPasswordValidator", {}),
    )
]
# One alone: another takes another time, which would tell which accounts exist.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
SESSION_COOKIE_AGE = 12 * 3600  # a long shift; from the login on, see core.auth.session_expiry
SESSION_IDLE_AGE = 15 * 60
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"  # not in a cookie, which anybody can read

# Failed logins, see core.auth.login_throttling, which has the limits.
AXES_HANDLER = "core.auth.login_throttling.LoginThrottleHandler"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"], "username", "ip_address"]
AXES_FAILURE_LIMIT = 1
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_USERNAME_FORM_FIELD = "username"
AXES_USERNAME_CALLABLE = "core.auth.login_throttling.hashed_username"
AXES_CLIENT_IP_CALLABLE = "core.auth.login_throttling.client_network"
AXES_LOCKOUT_CALLABLE = "core.auth.login_throttling.lockout_response"
AXES_DISABLE_ACCESS_LOG = True  # the audit trail has it
AXES_ENABLE_ADMIN = False  # hashes and counts tell a reader nothing; the audit trail tells of locks
AXES_VERBOSE = False

# HTTPS.
HTTPS_ONLY = env.flag("HTTPS_ONLY", PRODUCTION)
BEHIND_PROXY = env.flag("BEHIND_PROXY", False)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS_ONLY
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS_ONLY
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
X_FRAME_OPTIONS = "DENY"
_SELF, _NONE = "'self'", "'none'"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": _NONE,
        "script-src": _SELF,
        "style-src": _SELF,
        "img-src": (_SELF, "data:"),  # Swagger UI's style has its icons so
        "font-src": _SELF,
        "connect-src": _SELF,
        "form-action": _SELF,
        "object-src": _NONE,
        "base-uri": _NONE,
        "frame-ancestors": _NONE,
    }
}

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = "voiceassist.formats"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if PRODUCTION
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = not PRODUCTION

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["core.api.envelope.EnvelopeRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "core.api.envelope.EnvelopeContentNegotiation",
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_METADATA_CLASS": None,  # OPTIONS is refused: what a view takes stands in the documentation
    "DEFAULT_SCHEMA_CLASS": "core.api.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "core.api.exceptions.exception_handler",
    "DEFAULT_THROTTLE_CLASSES": [],
}
SPECTACULAR_SETTINGS = {
    "TITLE": "VoiceAssist",
    "DESCRIPTION": "Backend of a voice assistant for clinicians. Every answer comes in one envelope.",
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.1",
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,  # our choices say it themselves
    "APPEND_COMPONENTS": {"securitySchemes": {"metricsToken": {"type": "http", "scheme": "bearer"}}},
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},  # else it shows the schema to a host of its own
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

LOG_LEVEL = env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
LOG_FORMAT = env.choice("LOG_FORMAT", "json" if PRODUCTION else "console", ("json", "console"))
LOGGING_CONFIG = "voiceassist.logs.config.configure"
LOGGING = logging_config(level=LOG_LEVEL, style=LOG_FORMAT, service=SERVICE)

ENVIRONMENT_VARIABLES = frozenset(env.names)
