"""The received bytes of one request. They decide whether a thread can handle it without waiting for its client.

The worker's main thread adds what it receives. Gunicorn parses the request again and decides what is valid. If this
module finds another end of a request than gunicorn, the request waits for its deadline or is rejected.
"""

import re

from voiceassist import settings

MAX_HEAD_LENGTH = 32 * 1024  # bytes; load balancers allow 16 to 64 kB
# A chunked body counts with the sizes of its chunks.
MAX_BODY_LENGTH: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE

_END_OF_HEAD = b"\r\n\r\n"
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|expect):[ \t]*([^\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"0*([0-9]{1,12})")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,12})[ \t]*(?:;|$)")
_MAX_CHUNK_LINE_LENGTH = 8192  # bytes, gunicorn's limit of a header


class RequestBuffer:
    def __init__(self) -> None:
        self.data = bytearray()
        self.head = b""  # with the empty line, once it has arrived
        self.has_body = self.is_chunked = self.expects_continue = False
        self.is_complete = self.is_too_large = self.is_malformed = False
        self._end = 0  # of the request, or of the last complete chunk

    @property
    def is_ready(self) -> bool:
        """Whether a response needs no more data."""
        return self.is_complete or self.is_too_large or self.is_malformed

    def add(self, received: bytes) -> None:
        searched = max(0, len(self.data) - len(_END_OF_HEAD) + 1)
        self.data += received
        if not self.head and not self._find_head(searched):
            self.is_too_large = len(self.data) > MAX_HEAD_LENGTH
            return
        if self.is_chunked:
            self._skip_chunks()
        else:  # where a malformed request ends is unknown, so its connection must not be used again
            self.is_complete = len(self.data) >= self._end and not self.is_malformed
        self.is_too_large |= self._end - len(self.head) > MAX_BODY_LENGTH

    def _find_head(self, searched: int) -> bool:
        """Return whether the head has arrived, and read from it where the request ends."""
        end = self.data.find(_END_OF_HEAD, searched)
        if end < 0:
            return False
        self.head = bytes(self.data[: end + len(_END_OF_HEAD)])
        self._end = len(self.head)
        has_length = False
        for name, value in _FRAMING.findall(self.head):
            if name.lower() == b"expect":
                self.expects_continue = b"HTTP/1.1\r\n" in self.head
                continue
            self.is_malformed |= has_length  # gunicorn rejects a request with two lengths
            has_length = True
            if name.lower() == b"transfer-encoding":
                self.is_chunked = value.strip().lower().endswith(b"chunked")
                self.is_malformed |= not self.is_chunked
            elif length := _LENGTH.fullmatch(value.rstrip(b" \t")):
                self._end += int(length[1])
            else:
                self.is_malformed = True
        self.has_body = self.is_chunked or self.is_malformed or self._end > len(self.head)
        return True

    def _skip_chunks(self) -> None:
        """Move `_end` behind the complete chunks, and behind the trailers when they have arrived."""
        while self._end <= len(self.data):
            end_of_line = self.data.find(b"\r\n", self._end)
            if end_of_line < 0:
                self.is_malformed = len(self.data) - self._end > _MAX_CHUNK_LINE_LENGTH
                return
            match = _CHUNK_SIZE.match(self.data[self._end : end_of_line])
            size = int(match[1], 16) if match else 0
            if not match:
                self.is_malformed = True
                return
            if size:
                self._end = end_of_line + size + 4  # with the line breaks after the size and after the data
                if self._end - len(self.head) > MAX_BODY_LENGTH:
                    return
            else:
                self._find_end_of_trailers(end_of_line)
                return

    def _find_end_of_trailers(self, start: int) -> None:
        end = self.data.find(_END_OF_HEAD, start)
        self.is_complete = end >= 0
        self.is_too_large = len(self.data) - start > MAX_HEAD_LENGTH and not self.is_complete
