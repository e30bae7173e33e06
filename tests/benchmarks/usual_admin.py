"""URLs for the benchmark: our admin, a typical ModelAdmin of messages, and a bare one."""

from django.contrib import admin
from django.urls import path

from core.models import Message
from voiceassist.urls import urlpatterns as project_urls


class BareMessageAdmin(admin.ModelAdmin):
    change_list_template = "admin/change_list.html"  # Django's template, which our app overrides


class TypicalMessageAdmin(BareMessageAdmin):
    list_display = ("id", "session", "role", "content", "tokens", "created_at")
    list_filter = ("role", "contains_phi", "created_at")
    search_fields = ("content", "session__title")
    date_hierarchy = "created_at"


typical, bare = admin.AdminSite("typical"), admin.AdminSite("bare")
typical.register(Message, TypicalMessageAdmin)
bare.register(Message, BareMessageAdmin)

urlpatterns = [path("typical/", typical.urls), path("bare/", bare.urls), *project_urls]
