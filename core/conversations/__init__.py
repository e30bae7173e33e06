"""Write and read conversations. The admin uses these functions, and so must every API for sessions and messages.

append_message     stores a message exactly once, even if it is sent repeatedly or concurrently
read_messages      returns one page of a session's messages, by cursor
end_session        makes a session refuse further messages
archive_session    hides a session without ending it

Each raises ApiError with the error code for the client, NOT_FOUND also for a session id that is not a UUID.
"""

from core.conversations.append import append_message
from core.conversations.read import MAX_PAGE_SIZE, Page, read_messages
from core.conversations.sessions import archive_session, end_session

__all__ = ["MAX_PAGE_SIZE", "Page", "append_message", "archive_session", "end_session", "read_messages"]
