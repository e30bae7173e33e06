"""The admin, for inspecting the core tables at any size: from a user to their sessions, from a session to its messages.

filters       those that an index serves
change_list   lists by cursor, in an order that has an index; filters look at a bounded number of rows
find          what the pages of all tables share: search by index, counted deletion, the way to the audit trail
reveal        PHI is masked everywhere; this shows it, once, after it was recorded who looks
users, conversations, audit_trail   the pages themselves

Personal data is shown to staff.
"""

from core.admin import audit_events, conversations, users

__all__ = ["audit_events", "conversations", "users"]
