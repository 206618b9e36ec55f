"""The description of the API is true: what is sent by it never fails the server, and it says what comes back."""

import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_client import TOKEN, all_scopes, ask, plain_services, serving

from uadray.serving.config import ServeConfig
from uadray.serving.http import build_http
from uadray.serving.openapi import describe

LIMITED = settings(
    max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance)


@pytest.fixture(scope="module")
def app(bundles: dict[str, str]) -> Iterator[Any]:
    """The application with real bundles, which wants a token."""
    with tempfile.TemporaryDirectory() as folder:
        config = ServeConfig(
            out=folder, bundles={"main": bundles["fanogan"], "other": bundles["dpa"]}, max_body_bytes=100_000
        )
        yield build_http(plain_services(config, tokens=all_scopes(TOKEN)))


def test_every_operation_says_who_may_ask_and_what_may_come_back(app: Any) -> None:
    described = describe(app)
    ids = set()
    for path, item in described["paths"].items():
        for method, operation in item.items():
            place = f"{method} {path}"
            assert operation["operationId"] not in ids, place
            ids.add(operation["operationId"])
            assert len(operation["description"]) > 15, place
            assert "default" in operation["responses"], place
            is_open = path in ("/healthz", "/readyz")
            assert ("security" in operation) != is_open, place
            if not is_open:
                assert {"401", "403"} <= set(operation["responses"]), place
            for status, response in operation["responses"].items():
                if status == "default" or (int(status) >= 400 and place != "get /readyz"):
                    assert set(response["content"]) == {"application/problem+json"}, (place, status)
    assert {"health", "readiness", "score_tiles", "list_bundles", "show_bundle", "put_bundle", "delete_bundle"} <= ids
    assert described["components"]["securitySchemes"]["token"] == {
        "type": "http", "scheme": "bearer", "description": "A token that has the scope of the operation.",
    }  # fmt: skip
    assert "Problem" in described["components"]["schemas"]
    body = described["paths"]["/v1/tiles/score"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "image/png", "image/jpeg", "application/x-npz"}
    assert set(body["application/json"]["schema"]["properties"]) == {"tiles", "maps", "reconstructions", "bundle"}


def test_the_example_of_tiles_is_a_request(bundles: dict[str, str], app: Any) -> None:
    content = describe(app)["paths"]["/v1/tiles/score"]["post"]["requestBody"]["content"]["application/json"]
    with serving(bundles["fanogan"]) as port:
        answer = ask(port, "/v1/tiles/score", content["examples"]["one tile"]["value"])
    assert answer.status == 200
    assert answer.body["scores"][0]["error"] == "1 x 1 px, the bundle needs 40 px"


@pytest.mark.filterwarnings("ignore:Using `httpx` with")  # schemathesis sends by Starlette's client
def test_no_request_by_the_description_fails_the_server(app: Any) -> None:
    """Valid and invalid requests for every operation: no 5xx, and answers as they are described."""
    schema = schemathesis.openapi.from_dict(describe(app))
    schema.app = app
    tried: dict[str, int] = {}

    def send(case: Any) -> None:
        tried[case.operation.label] = tried.get(case.operation.label, 0) + 1
        response = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
        case.validate_response(response, checks=CHECKS)

    for result in schema.get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            cases = result.ok().as_strategy(generation_mode=mode)
            try:
                LIMITED(given(case=cases)(send))()
            except (SkipTest, Unsatisfiable):  # nothing can be wrong with a request that has no parameters
                assert mode == GenerationMode.NEGATIVE
    assert len(tried) >= 8
    assert min(tried[f"{operation}"] for operation in ("POST /v1/tiles/score", "PUT /v1/bundles/{name}")) > 20
