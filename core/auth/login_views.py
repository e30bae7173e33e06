"""Pages of the login: password, then the steps of `core.auth.pending_login` at one URL."""

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.auth.views import LoginView, redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.cache import never_cache

from core.auth import enrolment, pending_login
from core.auth.forms import CodeForm, EnrolForm, NewPasswordForm
from core.models import User

_TITLES = {"code": "Second factor", "password": "Choose a new password", "enrol": "Set up a second factor"}


class PasswordStep(LoginView):
    """Django's login page, except that further steps may follow before the user is logged in."""

    def form_valid(self, form: Any) -> HttpResponse:
        user = form.get_user()
        pending_login.start(self.request, user, self.get_success_url())
        return _continue(self.request, user)


def _continue(request: HttpRequest, user: User) -> HttpResponse:
    """Go to the next step, or log the user in if none is left."""
    if pending_login.current_step(request, user) is None:
        return HttpResponseRedirect(pending_login.finish(request, user))
    return HttpResponseRedirect(reverse("admin:login_continue"))


@never_cache
def continue_login(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Show the current step of a pending login, and handle its form."""
    user = pending_login.get_user(request)
    if user is None:
        return redirect_to_login(reverse("admin:index"))
    step = pending_login.current_step(request, user)
    if step is None or (request.method == "POST" and request.POST.get("step") != step):
        return _continue(request, user)  # a form that was sent twice, or the button of the page with recovery codes
    form = _form(request, user, step)
    if request.method == "POST" and form.is_valid():
        return _complete(request, user, form, site)
    context = {**site.each_context(request), "title": _TITLES[step], "step": step, "form": form, "account": user}
    if isinstance(form, EnrolForm):
        context |= enrolment.context(user, form.secret)
    return TemplateResponse(request, f"admin/login_{step}.html", context)


def _form(request: HttpRequest, user: User, step: str) -> CodeForm | NewPasswordForm | EnrolForm:
    data = (request.POST,) if request.method == "POST" else ()
    if step == "code":
        return CodeForm(request, user, *data)
    if step == "password":
        return NewPasswordForm(request, user, *data)
    return EnrolForm(request, user, enrolment.secret_of_page(request, user), *data)


def _complete(request: HttpRequest, user: User, form: Any, site: AdminSite) -> HttpResponse:
    if isinstance(form, NewPasswordForm):
        form.save()
    has_code = not isinstance(form, NewPasswordForm)
    pending_login.complete_step(request, user, has_code=has_code)
    if not isinstance(form, EnrolForm):
        return _continue(request, user)
    enrolment.forget_secret(request)
    context = {**site.each_context(request), "title": "Recovery codes", "codes": form.recovery_codes}
    return TemplateResponse(request, "admin/login_recovery_codes.html", context)
