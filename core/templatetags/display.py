"""Filters of the admin's templates."""

from django import template

from core.admin import display

register = template.Library()
register.filter("time_element", display.time_element)
register.filter("shortened", display.shortened)
register.filter("phi_flag", display.phi_flag)
