"""URL configuration."""

from django.contrib import admin
from django.urls import include, path
from django.views.decorators.gzip import gzip_page
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from core.admin import access_review
from health.urls import status_urlpatterns
from voiceassist.views import IndexView, favicon

urlpatterns = [
    path("", IndexView.as_view()),
    path("favicon.ico", favicon),
    path("", include("health.urls")),
    path("", include(status_urlpatterns)),
    path("admin/access-review/", admin.site.admin_view(access_review.view), name="access_review"),
    path("admin/", admin.site.urls),
    path("api/schema/", gzip_page(SpectacularAPIView.as_view()), name="schema"),
    path("api/docs/", SpectacularSwaggerSplitView.as_view(url_name="schema")),
]

handler400 = "core.http.error_handlers.bad_request"
handler403 = "core.http.error_handlers.permission_denied"
handler404 = "core.http.error_handlers.page_not_found"
handler500 = "core.http.error_handlers.server_error"
