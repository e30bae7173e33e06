"""Admin pages for the core tables that stay fast at any table size.

filters       list filters, with and without a supporting index
date_links    links to years, months and days
changelist    lists with cursor pagination; filters without an index scan a limited number of rows per page
user_search   finds users by words of their names and emails
audit_event_rows   names and links of what audit events refer to
base          base ModelAdmins: indexed search, deletion by count, History links to the audit trail
phi_reveal    masks PHI and adds the page that reveals it, after the access has been recorded
job_display   background jobs in words
large_deletion   deletes rows in the background if they are too many for a request
users, conversations, audit_events, backups, jobs   the registered pages

Staff see personal data.
"""

from core.admin import audit_events, backups, conversations, jobs, users

__all__ = ["audit_events", "backups", "conversations", "jobs", "users"]
