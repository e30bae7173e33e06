"""Reports of unhandled exceptions to Sentry. Imported only if `SENTRY_DSN` is set.

Reported are the exceptions of requests that end with 500. An outage of a dependency is none of them, because it has
alerts and would send a report for each request. `core.phi.before_send` removes every value.

No integration of the SDK is used. They would record requests, SQL and log lines, and slow down every request.
"""

import sys
from contextlib import suppress
from typing import Any

import sentry_sdk
from django.conf import settings
from django.core.signals import got_request_exception

from core.clients.outages import is_outage
from core.phi import before_send

_FLUSH_TIMEOUT = 2.0  # seconds that an exiting worker waits for Sentry


def start() -> None:
    """Start reporting, in a worker. A thread of the SDK sends the reports, and drops them while Sentry is down."""
    sentry_sdk.init(
        settings.SENTRY_DSN,
        release=f"{settings.VERSION}+{settings.COMMIT[:12]}" if settings.COMMIT else settings.VERSION,
        environment="production" if settings.PRODUCTION else "development",
        before_send=before_send,
        before_send_transaction=lambda event, hint: None,
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        send_client_reports=False,
        enable_metrics=False,
        include_local_variables=False,
        include_source_context=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        spotlight=False,  # otherwise a variable of the environment can send the reports elsewhere too
        debug=False,
    )
    got_request_exception.connect(_report)


def stop() -> None:
    """Send the remaining reports, for at most `_FLUSH_TIMEOUT`."""
    sentry_sdk.get_client().close(_FLUSH_TIMEOUT)


def _report(**kwargs: Any) -> None:
    """Django sends the signal in its `except` block."""
    error = sys.exc_info()[1]
    if error is not None and not is_outage(error):
        with suppress(Exception):  # a failed report must not change the response
            sentry_sdk.capture_exception(error)
