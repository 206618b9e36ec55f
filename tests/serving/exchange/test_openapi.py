"""The description of the API is true: what is sent by it never fails the server, and it says what comes back."""

import collections
import shutil
from pathlib import Path
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
from uadray.serving.exchange.openapi import describe
from uadray.serving.http import build_http
from uadray.serving.jobs.orders import order_slide
from uadray.serving.jobs.schemas import SlideRequest
from uadray.serving.services import Services

NEVER = {
    *(f"GET /v1/slides/{{job_id}}/{what}" for what in ("decision", "evidence", "masks", "tiles", "{picture}")),
    *("DELETE /v1/batches/{batch_id}", "GET /v1/batches/{batch_id}", "DELETE /v1/bundles/{name}"),
    *("PUT /v1/bundles/{name}", "PUT /v1/screenings/{screening}/slides/{slide_id}/note"),
}
"""Operations that nothing can be asked of by the description alone: a job that is done, a URI, an etag are needed."""

LIMITED = settings(
    max_examples=15, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance)


@pytest.fixture(scope="module")
def services(screened: Path, tmp_path_factory: pytest.TempPathFactory) -> Services:
    """The parts of an endpoint with real bundles and slides that are decided already, which wants a token."""
    out = shutil.copytree(screened / "out", tmp_path_factory.mktemp("described") / "out")
    bundles = {f"tiny{i}": str(screened / "bundles" / f"tiny{i}") for i in range(2)}
    config = ServeConfig(out=str(out), bundles=bundles, max_body_bytes=100_000, slides=(str(screened / "slides"),))
    return plain_services(config, tokens=all_scopes(TOKEN))


@pytest.fixture(scope="module")
def app(services: Services) -> Any:
    """The application of these parts."""
    return build_http(services)


def with_values(described: dict[str, Any], services: Services) -> dict[str, Any]:
    """The description, where parameters have values that exist: else nothing but 404 would ever be seen."""
    (folder,) = services.config.slides
    slide, job = (
        f"{folder}/phantom_000.tif",
        order_slide(services, SlideRequest(uri=f"{folder}/a.svs"), by="t", key=None),
    )
    known: dict[str, list[Any]] = {
        "screening": ["main"], "slide_id": ["a", "b", "broken"], "name": ["tiny0", "new"], "bundle": ["tiny0"],
        "job_id": [job.id], "level": [0, 9, 10], "x": [0, 1], "y": [0],
    }  # fmt: skip
    for path, item in described["paths"].items():
        for method, operation in item.items():
            is_delete = (method, path) == ("delete", "/v1/bundles/{name}")
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in known:
                    parameter["schema"] = {"enum": ["none"] if is_delete else known[parameter["name"]]}
                    parameter.pop("examples", None)
    schemas = described["components"]["schemas"]
    schemas["SlideRequest"]["properties"] |= {"uri": {"enum": [slide]}, "bundles": {"enum": [["tiny0"], None]}}
    schemas["BatchRequest"]["properties"] |= {"prefix": {"enum": [folder]}, "bundles": {"enum": [["tiny0"], None]}}
    for name in ("manifest", "slides", "split"):
        schemas["BatchRequest"]["properties"][name] = {"type": "null"}  # one source alone may be given
    return described


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
def test_no_request_by_the_description_fails_the_server(app: Any, services: Services) -> None:
    """Valid and invalid requests for every operation: no 5xx, and answers as they are described."""
    schema = schemathesis.openapi.from_dict(with_values(describe(app), services))
    schema.app = app
    answered: collections.Counter[tuple[str, int]] = collections.Counter()

    def send(case: Any) -> None:
        response = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
        answered[case.operation.label, response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    for result in schema.get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            cases = result.ok().as_strategy(generation_mode=mode)
            try:
                LIMITED(given(case=cases)(send))()
            except (SkipTest, Unsatisfiable):  # nothing can be wrong with a request that has no parameters
                assert mode == GenerationMode.NEGATIVE
    worked = {label for label, status in answered if status < 300}
    assert {label for label, _ in answered} - worked <= NEVER
    assert answered.total() > 500
