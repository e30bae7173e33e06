"""Users, their sessions, the messages of a session, the audit trail, background jobs, exports, and the list of backups.

    User 1 ─── * Session 1 ─── * Message
         1 ─── 0..1 Authenticator, RecoveryCodes   the second factor

`Session` is a conversation, not a web session. Keys are UUIDv7, which contain the time of creation, so new rows go to
the end of the primary key's index.

Each model declares each of its columns as `PHI`, `PERSONAL`, `SECRET` or `NON_SENSITIVE`, see `core.phi`. Only
non-sensitive values appear in `str()` and `repr()`.
"""

from core.models.audit_events import MATCHES_TIME_INDEX, AuditEvent
from core.models.backups import Backup
from core.models.base import BaseModel
from core.models.conversations import Message, Session
from core.models.exports import Export, ExportChunk
from core.models.fields import LowercaseEmailField
from core.models.jobs import Job
from core.models.second_factor import Authenticator, RecoveryCodes
from core.models.users import User

__all__ = [
    "MATCHES_TIME_INDEX",
    "AuditEvent",
    "Authenticator",
    "Backup",
    "BaseModel",
    "Export",
    "ExportChunk",
    "Job",
    "LowercaseEmailField",
    "Message",
    "RecoveryCodes",
    "Session",
    "User",
]
