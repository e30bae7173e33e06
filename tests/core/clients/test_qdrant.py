"""`core.clients.qdrant.client()` over the network: one client per process, with the API key of the settings."""

import re
from collections.abc import Iterator

import pytest
from django.conf import settings
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.models import Distance, VectorParams

from core.clients import qdrant
from core.trace_id import clear_trace_id, set_trace_id
from tests.support.plugin import API_KEY
from tests.support.qdrant_server import QdrantServer

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[QdrantServer]:
    with QdrantServer(api_key=API_KEY, read_only_key="read-only") as server:
        monkeypatch.setattr(settings, "QDRANT_URL", server.url)
        qdrant._network_client.cache_clear()
        yield server
    qdrant._network_client.cache_clear()


def test_shares_one_client(server: QdrantServer) -> None:
    with qdrant.client() as client:
        client.create_collection("notes", VectorParams(size=2, distance=Distance.COSINE))
        assert [collection.name for collection in client.get_collections().collections] == ["notes"]
    with qdrant.client() as second:
        assert second is client
        assert second.delete_collection("notes")
        assert second.get_collections().collections == []


def test_requests_carry_trace_id(server: QdrantServer) -> None:
    set_trace_id("4bf92f35-77b3-4da6-a3ce-929d0e0e4736")
    try:
        with qdrant.client() as client:
            client.get_collections()
            client.get_collections()
    finally:
        clear_trace_id()
    first, second = server.traceparents
    assert re.fullmatch(r"00-4bf92f3577b34da6a3ce929d0e0e4736-(?!0{16})[0-9a-f]{16}-01", first)
    assert first != second


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("received", "sent"),
    [
        (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        (f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01"),
        (f"cc-{TRACE}-{PARENT}-00-later", f"00-{TRACE}-{PARENT}-00"),
        (f"00-{TRACE}-{PARENT}-00-more", rf"00-{TRACE}-(?!{PARENT})[0-9a-f]{{16}}-01"),  # invalid
        ("", rf"00-{TRACE}-(?!{PARENT})[0-9a-f]{{16}}-01"),
    ],
)
def test_requests_carry_the_traceparent_of_the_client(server: QdrantServer, received: str, sent: str) -> None:
    set_trace_id(TRACE, received)
    try:
        with qdrant.client() as client:
            client.get_collections()
    finally:
        clear_trace_id()
    assert re.fullmatch(sent, server.traceparents[-1])
    with qdrant.client() as client:
        client.get_collections()
    assert TRACE not in server.traceparents[-1]


@pytest.mark.parametrize(("key", "status"), [("wrong", 401), ("read-only", 403)])
def test_rejects_wrong_or_read_only_key(
    server: QdrantServer, monkeypatch: pytest.MonkeyPatch, key: str, status: int
) -> None:
    monkeypatch.setattr(settings, "QDRANT_API_KEY", key)
    with qdrant.client() as client, pytest.raises(UnexpectedResponse) as raised:
        client.create_collection("notes", VectorParams(size=2, distance=Distance.COSINE))
    assert raised.value.status_code == status
