"""Admin pages for the core tables that stay fast at any table size.

Lists:
    filters          list filters, with and without a supporting index
    search_terms     keeps search terms out of URLs
    date_links       links to years, months and days
    list_scope       what a link has limited a list to
    changelist       lists with cursor pagination; filters without an index scan a limited number of rows per page
    user_search      finds users by words of their names and emails
Rows:
    display          times, ids and flags
    row_names        names of rows for staff
    conversation_rows, breadcrumbs   the path from a user to a session and its messages
    audit_event_rows   names and links of what audit events refer to
    job_display      background jobs in words
Base classes of the ModelAdmins:
    base             indexed search, deletion by count, History links to the audit trail
    scripts          loads only the scripts that a page uses
    large_deletion   deletes rows in the background if they are too many for a request
    account_security, permission_picker, exports   parts of the pages of users and groups
PHI:
    phi_reveal       masks PHI and adds the page that reveals it, after the access has been recorded
    access_reason    asks why
    stored_text      reads the values as text
    transcripts      adds the page that shows a conversation
The registered pages: users, conversations, audit_events, backups, jobs. Without a ModelAdmin: access_review.

Staff see personal data.
"""

from core.admin import audit_events, backups, conversations, jobs, users

__all__ = ["audit_events", "backups", "conversations", "jobs", "users"]
