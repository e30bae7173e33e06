"""Pages of the second factor for users who are logged in: the own one, and the step-up before a reveal."""

import time
from typing import Any, cast

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from core.auth import enrolment, second_factor
from core.auth.forms import CodeForm, ConfirmedEnrolForm, EnrolForm
from core.auth.pending_login import MAX_STEP_AGE
from core.models import Authenticator, RecoveryCodes, User

_REPLACING_KEY = "replaces_second_factor"  # key of the web session: when the code for the replacement was right


def _next_url(request: HttpRequest) -> str:
    """Return the page to go to afterwards. Other hosts are not allowed."""
    url = str(request.POST.get("next") or request.GET.get("next") or "")
    is_allowed = url_has_allowed_host_and_scheme(url, {request.get_host()}, require_https=request.is_secure())
    return url if is_allowed else reverse("admin:index")


def verify(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Ask for a code, because the last one is older than an hour or the user never entered one."""
    user, next_url = cast(User, request.user), _next_url(request)
    if not second_factor.is_enrolled(user):
        return redirect_to_login(next_url, reverse("admin:second_factor"))
    form = CodeForm(request, user, *((request.POST,) if request.method == "POST" else ()))
    if request.method == "POST" and form.is_valid():
        second_factor.mark_verified(request)
        second_factor.warn_of_few_codes(request)
        messages.success(request, "Code accepted. Please repeat the last action.")
        return HttpResponseRedirect(next_url)
    context = {"title": "Enter a code", "form": form, "next": next_url}
    return _page(request, site, "admin/second_factor_verify.html", context)


def manage(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Show the own second factor. Every change needs a code."""
    user = cast(User, request.user)
    device = Authenticator.objects.filter(user=user, confirmed=True).first()
    # The page for the new app may be left open. Its code must not suffice for the rest of the login.
    is_replacing = time.time() - request.session.get(_REPLACING_KEY, 0) < MAX_STEP_AGE
    if device is None or is_replacing:
        return _enrol(request, site, user, replace=device is not None)
    form = CodeForm(request, user, *((request.POST,) if request.method == "POST" else ()))
    if request.method == "POST" and form.is_valid():
        return _change(request, site, user)
    codes = RecoveryCodes.objects.filter(user=user).first()
    context = {
        "title": "Second factor",
        "form": form,
        "device": device,
        "codes_left": len(codes.digests) if codes else 0,
        "is_required": second_factor.is_required(user),
    }
    return _page(request, site, "admin/second_factor.html", context)


def _change(request: HttpRequest, site: AdminSite, user: User) -> HttpResponse:
    """Do what the pressed button says. The code was right."""
    second_factor.mark_verified(request)
    if "codes" in request.POST:
        return _show_codes(request, site, RecoveryCodes.issue(user))
    if "replace" in request.POST:
        request.session[_REPLACING_KEY] = int(time.time())
    elif "remove" in request.POST and not second_factor.is_required(user):
        second_factor.remove(user)
        del request.session[second_factor.VERIFIED_AT_KEY]
        messages.success(request, "Second factor removed.")
    return HttpResponseRedirect(reverse("admin:second_factor"))


def _enrol(request: HttpRequest, site: AdminSite, user: User, *, replace: bool) -> HttpResponse:
    form_class = EnrolForm if replace else ConfirmedEnrolForm
    data = (request.POST,) if request.method == "POST" else ()
    form = form_class(request, user, enrolment.secret_of_page(request, user), *data, replace=replace)
    if request.method == "POST" and form.is_valid():
        enrolment.forget_secret(request)
        request.session.pop(_REPLACING_KEY, None)
        second_factor.mark_verified(request)
        return _show_codes(request, site, form.recovery_codes)
    context = {"title": "Set up a second factor", "form": form, "next": _next_url(request)}
    return _page(request, site, "admin/second_factor_enrol.html", context | enrolment.context(user, form.secret))


def _show_codes(request: HttpRequest, site: AdminSite, codes: list[str]) -> HttpResponse:
    context = {"title": "Recovery codes", "codes": codes, "next": _next_url(request)}
    return _page(request, site, "admin/second_factor_recovery_codes.html", context)


def _page(request: HttpRequest, site: AdminSite, template: str, context: dict[str, Any]) -> HttpResponse:
    return TemplateResponse(request, template, {**site.each_context(request), **context})
