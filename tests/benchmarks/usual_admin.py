"""The admin of messages as people usually write it, and a bare one, beside ours: URLs for the benchmark alone."""

from django.contrib import admin
from django.urls import path

from core.models import Message
from voiceassist.urls import urlpatterns as ours


class Bare(admin.ModelAdmin):
    change_list_template = "admin/change_list.html"  # Django's own, not that of our app


class Usual(Bare):
    list_display = ("id", "session", "role", "content", "tokens", "created_at")
    list_filter = ("role", "contains_phi", "created_at")
    search_fields = ("content", "session__title")
    date_hierarchy = "created_at"


usual, bare = admin.AdminSite("usual"), admin.AdminSite("bare")
usual.register(Message, Usual)
bare.register(Message, Bare)

urlpatterns = [path("usual/", usual.urls), path("bare/", bare.urls), *ours]
