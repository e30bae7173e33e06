"""The OpenAPI schema matches the API: responses and the schema's examples are valid against it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client, override_settings
from jsonschema import Draft202012Validator, FormatChecker

from core.api.error_codes import ErrorCode
from health.checks.failure_reasons import HINTS
from health.multiprocess import draining
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

pytestmark = pytest.mark.django_db

PATHS = {"/", "/health", "/ready", "/metrics"}


def test_commands_of_drf_and_spectacular_generate_the_same_schema() -> None:
    schemas = [StringIO(), StringIO()]
    for command, schema in zip(("generateschema", "spectacular"), schemas, strict=True):
        call_command(command, format="openapi-json", stdout=schema)
    assert json.loads(schemas[0].getvalue()) == json.loads(schemas[1].getvalue())


@pytest.fixture
def schema(client: Client) -> dict[str, Any]:
    response = client.get("/api/schema/", headers={"accept": "application/vnd.oai.openapi+json"})
    assert response.status_code == 200
    parsed: dict[str, Any] = json.loads(response.content)
    return parsed


def validate(schema: dict[str, Any], path: str, status: int, body: Any) -> None:
    """Raise ValidationError if the body does not match the schema of this response."""
    response_schema = schema["paths"][path]["get"]["responses"][str(status)]["content"]["application/json"]["schema"]
    with_components = {**response_schema, "components": schema["components"]}
    Draft202012Validator(with_components, format_checker=FormatChecker()).validate(body)


def test_documents_every_path(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    assert set(schema["paths"]) == PATHS
    reason = schema["components"]["schemas"]["Dependency"]["properties"]["reason"]
    assert set(reason["enum"]) == {*HINTS, None}


def test_describes_every_error_code_and_field(schema: dict[str, Any]) -> None:
    service_catalog = (ROOT / "docs" / "SERVICE_CATALOG.md").read_text()
    for code in ErrorCode:
        row = f"| `{code.name}` | {code.status} | {code.message} |"
        assert row in schema["info"]["description"]
        assert row in service_catalog
    for name, component in schema["components"]["schemas"].items():
        for field, value in component["properties"].items():
            if "enum" in value or "additionalProperties" in value:
                assert "description" in value, (name, field)


@pytest.mark.parametrize(
    ("path", "status", "settings", "request_"),
    [
        ("/", 200, {}, {}),
        ("/", 400, {}, {"headers": {"host": "elsewhere.example.org"}}),
        ("/health", 200, {}, {}),
        ("/ready", 200, {}, {}),
        ("/metrics", 401, {"METRICS_TOKEN": "token"}, {}),
        ("/metrics", 401, {"METRICS_TOKEN": "token"}, {"headers": {"authorization": "Bearer other"}}),
    ],
)
def test_responses_match_schema(
    client: Client, schema: dict[str, Any], path: str, status: int, settings: Any, request_: Any
) -> None:
    with override_settings(**settings):
        response = client.get(path, **request_)
    assert response.status_code == status
    validate(schema, path, status, response.json())
    for header in schema["paths"][path]["get"]["responses"][str(status)]["headers"]:
        assert header in response


def test_not_ready_response_matches_schema(
    client: Client, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "is_draining", lambda: True)
    response = client.get("/ready")
    assert response.status_code == 503
    validate(schema, "/ready", 503, response.json())


def test_internal_error_matches_schema(client: Client, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voiceassist.views.INDEX", object())  # cannot be rendered
    client.raise_request_exception = False
    response = client.get("/")
    assert response.status_code == 500
    validate(schema, "/", 500, response.json())


def test_every_response_has_a_valid_example(schema: dict[str, Any]) -> None:
    examples = 0
    for path, methods in schema["paths"].items():
        for status, response in methods["get"]["responses"].items():
            for media_type, content in response["content"].items():
                assert content["examples"], (path, status)
                for example in content["examples"].values():
                    if media_type == "application/json":
                        validate(schema, path, int(status), example["value"])
                    examples += 1
    assert examples == 11


@pytest.fixture(scope="module")
def app() -> Iterator[VoiceAssistServer]:
    # The server's database is not migrated, because Django's test database has another name.
    with VoiceAssistServer(HEALTH_OPTIONAL="migrations") as app:
        yield app


def test_schemathesis(app: VoiceAssistServer) -> None:
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", "--checks=all"]
    limits = ["--max-examples=50", "--generation-deterministic", "--request-timeout=10", "--no-color"]
    result = subprocess.run(
        [*command, f"{app.url}/api/schema/", *limits],
        capture_output=True, text=True, timeout=50, cwd=app.folder, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 selected / 4 total" in result.stdout


def test_docs_page_loads_no_assets_from_other_hosts(client: Client) -> None:
    page = client.get("/api/docs/").content.decode()
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert links
    for link in links:
        assert link.startswith(("/", "?")) and not link.startswith("//"), link
        response = client.get(f"/api/docs/{link}" if link.startswith("?") else link)
        response.close()
        assert response.status_code == 200, link


@pytest.mark.parametrize("path", ["/", "/api/schema/", "/api/docs/"])
@pytest.mark.parametrize("method", ["options", "post", "delete"])
def test_rejects_other_methods(client: Client, path: str, method: str) -> None:
    response = getattr(client, method)(path)
    assert response.status_code == 405
    assert "GET" in response["Allow"]
