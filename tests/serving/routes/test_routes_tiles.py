"""Tiles over HTTP in every form that is read, on the bundle that is asked for; fuzzed bytes are never a 500."""

import base64
import io
import tempfile
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_client import PATH, encode, listening, plain_services, png_of, request

from uadray.detectors.building import build_networks
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.serving.config import ServeConfig
from uadray.tiles.images import Pixels
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import StainConfig


@pytest.fixture(scope="module")
def two(bundles: dict[str, str]) -> Iterator[int]:
    """An endpoint with two bundles, the first one `main`."""
    with tempfile.TemporaryDirectory() as folder:
        named = {"main": bundles["fanogan"], "other": bundles["dpa"]}
        config = ServeConfig(out=folder, bundles=named, insecure=True, max_tiles_per_request=8, max_image_px=256)
        with listening(plain_services(config)) as port:
            yield port


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def scores(answer: Any) -> list[float]:
    assert answer.status == 200, answer
    return [tile["score"] for tile in answer.body["scores"]]


def test_every_form_of_the_same_tiles_gets_the_same_scores(
    two: int, bundles: dict[str, str], pixels: Pixels, ask: Callable[..., Any]
) -> None:
    tiles = np.ascontiguousarray(pixels[:3])
    for name, kind in (("main", "fanogan"), ("other", "dpa")):
        expected = pytest.approx(load_detector(bundles[kind])(tiles).score, abs=1e-5)
        as_json = ask(two, PATH, request(*map(encode, tiles)) | {"bundle": name})
        as_npz = ask(two, f"{PATH}?bundle={name}", npz(tiles=tiles), **{"Content-Type": "application/x-npz"})
        one_by_one = [
            ask(two, f"{PATH}?bundle={name}", base64.b64decode(encode(tile)), **{"Content-Type": "image/png"})
            for tile in tiles
        ]
        assert scores(as_json) == expected
        assert scores(as_npz) == expected
        assert [scores(answer)[0] for answer in one_by_one] == expected
        assert as_json.body["bundle_id"] == as_npz.body["bundle_id"] == read_bundle(bundles[kind]).id
    jpeg = base64.b64decode(encode(pixels[0], ".jpg"))
    answer = ask(two, f"{PATH}?id={quote('a b/ü')}&maps=true", jpeg, **{"Content-Type": "image/jpeg; q=1"})
    (tile,) = answer.body["scores"]
    assert tile["id"] == "a b/ü"
    assert tile["map"]["shape"] == [16, 16]
    assert tile["score"] == pytest.approx(
        load_detector(bundles["fanogan"])(cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)[None, ..., ::-1].copy()).score[
            0
        ],
        abs=1e-5,
    )


def test_an_archive_has_its_own_ids_and_cuts_its_tiles(two: int, pixels: Pixels, ask: Callable[..., Any]) -> None:
    framed = np.pad(pixels[:2], ((0, 0), (3, 4), (5, 6), (0, 0)))
    body = npz(tiles=framed, ids=np.array(["b", "a"]))
    answer = ask(two, PATH, body, **{"Content-Type": "application/x-npz"})
    plain = ask(two, PATH, request(*map(encode, pixels[:2])))
    assert scores(answer) == pytest.approx(scores(plain), abs=1e-5)
    assert [tile["id"] for tile in answer.body["scores"]] == ["b", "a"]


@pytest.mark.parametrize(
    ("kind", "query", "body", "status", "words"),
    [
        ("text/plain", "", b"{}", 415, "application/json, image/png, image/jpeg, application/x-npz"),
        ("application/x-www-form-urlencoded", "", b"{}", 415, "expected Content-Type"),
        ("application/json", "?maps=true", b"{}", 422, "stand in its body"),
        ("image/png", "?map=true", b"x", 422, "query: map: Extra inputs"),
        ("image/png", "?maps=perhaps", b"x", 422, "query: maps: Input should be a valid boolean"),
        ("image/png", "?bundle=../x", b"x", 422, "query: bundle"),
        ("image/png", "?bundle=none", b"x", 404, "no bundle is called 'none' here"),
        ("application/x-npz", "?id=a", b"x", 422, "query: id: Extra inputs"),
        ("application/x-npz", "", b"x", 422, "not an .npz"),
        ("application/x-npz", "", npz(tiles=np.zeros((9, 40, 40, 3), np.uint8)), 413, "9 tiles; at most 8"),
        ("application/x-npz", "", npz(tiles=np.zeros((1, 40, 300, 3), np.uint8)), 413, "at most 256 px a side"),
        ("application/x-npz", "", npz(tiles=np.zeros((1, 40, 40, 3))), 422, "expected uint8"),
    ],
)
def test_what_is_refused_and_why(
    two: int, ask: Callable[..., Any], kind: str, query: str, body: bytes, status: int, words: str
) -> None:
    answer = ask(two, PATH + query, body, **{"Content-Type": kind})
    assert answer.status == status
    assert words in answer.body["detail"]


def test_an_empty_body_and_a_large_image(two: int, ask: Callable[..., Any]) -> None:
    for body in (b"", base64.b64decode(png_of(300, 40))):
        (tile,) = ask(two, PATH, body, **{"Content-Type": "image/png"}).body["scores"]
        assert tile["score"] is None
        assert tile["error"]


def test_a_bundle_that_normalises_stain_by_slide_scores_no_lone_tiles(
    bundles: dict[str, str], pixels: Pixels, ask: Callable[..., Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = read_bundle(bundles["fanogan"])
        write_bundle(
            f"{folder}/b", build_networks(bundle.detector), name="stained", detector=bundle.detector,
            tiles=TileSpec(mpp=1, tile_px=40, stain=StainConfig()),
        )  # fmt: skip
        config = ServeConfig(out=f"{folder}/out", bundles={"main": f"{folder}/b"}, insecure=True)
        with listening(plain_services(config)) as port:
            answer = ask(port, PATH, request(encode(pixels[0])))
            (listed,) = ask(port, "/v1/bundles").body["bundles"]
    assert (answer.status, "normalises stain by slide" in answer.body["detail"]) == (422, True)
    assert listed["scores_tiles"] is False


IMAGES = {
    suffix: base64.b64decode(encode(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8), suffix))
    for suffix in (".png", ".jpg")
}
ARCHIVE = npz(tiles=np.zeros((2, 40, 40, 3), np.uint8), ids=np.array(["a", "b"]))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A media type and a body: an image or an archive cut off, with bytes changed, or two files in one."""
    kind, body = draw(
        st.sampled_from([("image/png", IMAGES[".png"]), ("image/jpeg", IMAGES[".jpg"]), ("application/x-npz", ARCHIVE)])
    )
    match draw(st.sampled_from(["cut", "flip", "append", "prepend", "random", "insert"])):
        case "cut":
            return kind, body[: draw(st.integers(0, len(body)))]
        case "append":
            return kind, body + draw(st.sampled_from([*IMAGES.values(), ARCHIVE, b"<script>", b"GIF89a"]))
        case "prepend":
            return kind, draw(st.sampled_from([*IMAGES.values(), b"%PDF-1.4", b"II*\0", b"RIFF"])) + body
        case "random":
            return kind, body[: draw(st.integers(0, 40))] + draw(st.binary(max_size=200))
        case "insert":
            at = draw(st.integers(0, len(body)))
            return kind, body[:at] + draw(st.binary(max_size=20)) + body[at:]
    changed = bytearray(body)
    for _ in range(draw(st.integers(1, 5))):
        changed[draw(st.integers(0, len(body) - 1))] ^= draw(st.integers(1, 255))
    return kind, bytes(changed)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged())
def test_damaged_files_are_an_error_or_a_score_and_never_a_failure(
    two: int, ask: Callable[..., Any], given_body: tuple[str, bytes]
) -> None:
    kind, body = given_body
    answer = ask(two, PATH, body, **{"Content-Type": kind})
    assert answer.status in (200, 413, 422)
    for tile in answer.body.get("scores", ()):
        assert (tile["score"] is None) != (tile["error"] is None)
    if kind != "application/x-npz":
        in_json = ask(two, PATH, request(base64.b64encode(body).decode()))
        assert in_json.status == answer.status
        if in_json.status == 200:
            assert in_json.body["scores"][0]["error"] == answer.body["scores"][0]["error"]


def test_the_endpoint_lives_after_all_of_this(two: int, pixels: Pixels, ask: Callable[..., Any]) -> None:
    assert len(scores(ask(two, PATH, request(encode(pixels[0]))))) == 1
