"""Bundles over HTTP: listed with their cards, swapped while requests run, and read from nowhere else than allowed."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from screening_drivers import CALIBRATION
from serving_client import PATH, PlainScorer, encode, listening, plain_services, request

from uadray.detectors.bundle import read_bundle
from uadray.errors import InputError
from uadray.serving.config import ServeConfig
from uadray.serving.registry import RegisteredBundle
from uadray.serving.scores import Scores, Wanted
from uadray.tiles.images import Pixels


@pytest.fixture
def sources(tmp_path: Path, bundles: dict[str, str]) -> Path:
    """A folder that bundles may be added from: `dpa` is calibrated, `broken` has other weights than it says."""
    folder = tmp_path / "sources"
    for kind in ("dpa", "fanogan"):
        shutil.copytree(bundles[kind], folder / kind)
    shutil.copytree(bundles["dpa"], folder / "broken")
    (folder / "broken" / "weights.safetensors").write_bytes(b"x" * 100)
    calibration = CALIBRATION.model_copy(update={"bundle_id": read_bundle(bundles["dpa"]).id})
    (folder / "dpa" / "calibration.json").write_text(calibration.model_dump_json())
    (tmp_path / "outside").mkdir()
    shutil.copytree(bundles["fanogan"], tmp_path / "outside" / "fanogan")
    (folder / "link").symlink_to(tmp_path / "outside" / "fanogan")
    return folder


@pytest.fixture
def port(tmp_path: Path, bundles: dict[str, str], sources: Path) -> Iterator[int]:
    """An endpoint with one bundle."""
    config = ServeConfig(
        out=str(tmp_path / "out"), bundles={"main": bundles["fanogan"]}, insecure=True, bundle_sources=(str(sources),)
    )
    with listening(plain_services(config)) as number:
        yield number


def put(ask: Callable[..., Any], port: int, name: str, uri: Any) -> Any:
    return ask(port, f"/v1/bundles/{name}", {"uri": str(uri)}, method="PUT", **{"Content-Type": "application/json"})


def test_a_bundle_is_added_shown_and_taken_away(
    port: int, sources: Path, bundles: dict[str, str], pixels: Pixels, ask: Callable[..., Any]
) -> None:
    added = put(ask, port, "second", sources / "dpa")
    assert added.status == 200
    assert added.body == {
        "name": "second", "id": read_bundle(bundles["dpa"]).id, "is_default": False, "title": "dpa", "detector": "dpa",
        "tile_px": 40, "mpp": 1.0, "scores_tiles": True,
        "calibration": {"id": "cal", "alpha": 0.25, "n": 3, "threshold": 3.0},
    }  # fmt: skip
    listed = ask(port, "/v1/bundles").body["bundles"]
    assert [(b["name"], b["is_default"], b["calibration"] is None) for b in listed] == [
        ("main", True, True), ("second", False, False),
    ]  # fmt: skip
    shown = ask(port, "/v1/bundles/second").body
    assert {name: shown[name] for name in added.body} == added.body
    assert "Research use only" in shown["research_use"]
    assert [s["title"] for s in shown["card"]][:2] == ["What it is", "What it is for"]
    assert str(sources) not in json.dumps(shown)
    assert ask(port, PATH, request(encode(pixels[0])) | {"bundle": "second"}).body["bundle_id"] == added.body["id"]
    gone = ask(port, "/v1/bundles/main", method="DELETE")
    assert (gone.status, gone.body) == (204, {})
    assert ask(port, PATH, request(encode(pixels[0]))).body["bundle_id"] == added.body["id"]
    assert ask(port, "/v1/bundles/main").status == 404
    assert ask(port, "/v1/bundles/main", method="DELETE").status == 404
    last = ask(port, "/v1/bundles/second", method="DELETE")
    assert (last.status, last.body["detail"]) == (409, "second is the only bundle; add another first")


def test_bundles_come_from_allowed_places_alone(
    port: int, sources: Path, tmp_path: Path, bundles: dict[str, str], ask: Callable[..., Any]
) -> None:
    for uri in (
        tmp_path / "outside" / "fanogan", sources / "link", f"{sources}/../outside/fanogan", "/etc", "s3://bucket/b",
        "http://127.0.0.1/b", "https://example.org/b", "file:///etc",
    ):  # fmt: skip
        answer = put(ask, port, "x", uri)
        assert answer.status == 403, uri
        assert answer.body["detail"].startswith("uri: ")
    for uri in (sources / "nothing", sources / "broken", sources):
        answer = put(ask, port, "x", uri)
        assert answer.status == 422, (uri, answer)
    (sources / "dpa" / "bundle.json").unlink()
    (sources / "dpa" / "bundle.json").symlink_to(tmp_path / "outside" / "fanogan" / "bundle.json")
    assert put(ask, port, "x", sources / "dpa").status == 403
    assert put(ask, port, "y", bundles["fanogan"]).status == 200  # the configuration names it
    assert [b["name"] for b in ask(port, "/v1/bundles").body["bundles"]] == ["main", "y"]


def test_names_and_bodies_that_are_none(port: int, sources: Path, ask: Callable[..., Any]) -> None:
    for name in ("..%2Fx", "a%20b", "%00", "a" * 65, "-a", "a%0A"):
        assert put(ask, port, name, sources / "fanogan").status in (404, 422)
    for body in (b"{", b"{}", b'{"uri": 5}', b'{"uri": "a", "x": 1}', b'{"uri": ""}'):
        assert ask(port, "/v1/bundles/x", body, method="PUT").status == 422
    assert ask(port, "/v1/bundles/x", b"{}", method="PUT", **{"Content-Type": "text/plain"}).status == 415
    assert [b["name"] for b in ask(port, "/v1/bundles").body["bundles"]] == ["main"]


def test_a_swap_loses_no_request_and_those_under_way_keep_the_old_one(
    tmp_path: Path, bundles: dict[str, str], sources: Path, pixels: Pixels, ask: Callable[..., Any]
) -> None:
    """One request waits inside the old bundle all through the swap; others are sent all the time."""
    plain, inside, go = PlainScorer(), threading.Event(), threading.Event()

    async def score(bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        if wanted.maps:
            inside.set()
            while not go.is_set():
                await asyncio.sleep(0.01)
        return await plain(bundle, pixels, wanted)

    config = ServeConfig(
        out=str(tmp_path / "out"), bundles={"main": bundles["fanogan"]}, insecure=True, bundle_sources=(str(sources),)
    )
    answers: list[Any] = []
    old, new = (read_bundle(bundles[kind]).id for kind in ("fanogan", "dpa"))
    with listening(plain_services(config, score=score)) as port:
        body = request(encode(pixels[0]))
        waiting = threading.Thread(target=lambda: answers.append(ask(port, PATH, body | {"maps": True})))
        waiting.start()
        assert inside.wait(20)
        stop, seen = threading.Event(), list[Any]()

        def send() -> None:
            while not stop.is_set():
                seen.append(ask(port, PATH, body))

        sender = threading.Thread(target=send)
        sender.start()
        assert put(ask, port, "main", sources / "dpa").status == 200
        assert ask(port, PATH, body).body["bundle_id"] == new
        stop.set()
        sender.join()
        go.set()
        waiting.join()
    assert answers[0].body["bundle_id"] == old
    assert {a.status for a in seen} == {200}
    ids = [a.body["bundle_id"] for a in seen]
    assert ids == sorted(ids, key=[old, new].index), "first the old one, then the new one"


@pytest.mark.parametrize("failure", ["error", "nan", "late"])
def test_a_bundle_that_cannot_score_gets_no_name(
    tmp_path: Path, bundles: dict[str, str], sources: Path, ask: Callable[..., Any], failure: str
) -> None:
    async def score(bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        assert pixels.shape == (1, 40, 40, 3)
        assert (pixels == 255).all()
        if failure == "error":
            raise InputError("weights are damaged")
        await asyncio.sleep(5 if failure == "late" else 0)
        return Scores(np.array([np.nan]))

    config = ServeConfig(
        out=str(tmp_path / "out"), bundles={"main": bundles["fanogan"]}, insecure=True, request_timeout_s=0.5,
        bundle_sources=(str(sources),),
    )  # fmt: skip
    with listening(plain_services(config, score=score)) as port:
        answer = put(ask, port, "main", sources / "dpa")
        (bundle,) = ask(port, "/v1/bundles").body["bundles"]
    assert answer.status == {"error": 422, "nan": 422, "late": 504}[failure]
    assert bundle["id"] == read_bundle(bundles["fanogan"]).id
