"""Scores are the detector's; a bad tile costs no other its score; what is too large is refused unseen."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from serving_client import PATH, peak_growth_mib, png_claiming, png_of, request, serving

from uadray.detectors.bundle import load_detector, read_bundle
from uadray.serving.registry import RegisteredBundle
from uadray.serving.scores import Scores, TilePictures, Wanted
from uadray.serving.tiles.base64_images import decode_tile
from uadray.tiles.images import Pixels


def test_scores_are_the_detectors_and_larger_tiles_are_cropped(
    bundles: dict[str, str], port: int, pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    framed = np.pad(pixels[0], ((3, 4), (5, 6), (0, 0)))
    answer = ask(port, PATH, request(*map(encode, pixels[:3]), encode(framed)))
    assert answer.status == 200
    assert answer.body["bundle_id"] == read_bundle(bundles["fanogan"]).id
    expected = load_detector(bundles["fanogan"])(np.concatenate([pixels[:3], pixels[:1]])).score
    assert [s["score"] for s in answer.body["scores"]] == pytest.approx(expected, abs=1e-5)
    assert [set(s) for s in answer.body["scores"]] == [{"id", "score", "error"}] * 4


def test_maps_come_when_asked_for(
    bundles: dict[str, str], port: int, pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    answer = ask(port, PATH, request(encode(pixels[0]), "?") | {"maps": True})
    first, second = (s["map"] for s in answer.body["scores"])
    residual = np.frombuffer(base64.b64decode(first["float32"]), "<f4").reshape(first["shape"])
    assert np.allclose(residual, load_detector(bundles["fanogan"])(pixels[:1]).maps([0])[0], atol=1e-5)
    assert second is None


def test_a_bad_tile_gets_an_error_and_the_others_their_scores(
    bundles: dict[str, str], port: int, pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    truncated = base64.b64encode(base64.b64decode(encode(pixels[1], ".jpg"))[:-40]).decode()
    expected = load_detector(bundles["fanogan"])(pixels[:1]).score[0]
    for image, error in (
        ("not base64!", "image is not base64"),
        ("", "not an image that can be decoded; expected PNG or JPEG"),
        (base64.b64encode(b"GIF89a......").decode(), "not an image that can be decoded; expected PNG or JPEG"),
        (truncated, "image is damaged and cannot be decoded"),
        (base64.b64encode(base64.b64decode(encode(pixels[1]))[:-40]).decode(), "image is damaged"),
        (encode(pixels[1][:, :30]), "30 x 40 px, the bundle needs 40 px"),
        (png_claiming(257, 100), "257 x 100 px, at most 256 px a side are decoded"),
        (png_claiming(2**31 - 1, 2**31 - 1), "image claims more pixels than any tile has"),
    ):
        bad, good = ask(port, PATH, request(image, encode(pixels[0]))).body["scores"]
        assert bad["score"] is None
        assert error in bad["error"]
        assert (good["score"], good["error"]) == (pytest.approx(expected, abs=1e-5), None)


def test_a_request_of_twenty_mib_that_claims_gigapixels_is_refused_unseen(
    bundles: dict[str, str], ask: Callable[..., Any]
) -> None:
    """256 images of 4096 x 4096 px would be 12 GiB."""
    body = json.dumps(request(*[png_of(4096, 4096)] * 256)).encode()
    assert 15 * 2**20 < len(body) < 32 * 2**20
    with serving(bundles["fanogan"]) as port, peak_growth_mib() as growth:
        answer = ask(port, PATH, body)
    assert answer.status == 413
    assert answer.body["detail"] == (
        "images of 4294967296 pixels together; at most 67108864 in a request, send several, or tiles of 40 px"
    )
    assert growth[0] < 300


def test_as_many_pixels_as_may_be_are_decoded_one_image_after_the_other(
    bundles: dict[str, str], ask: Callable[..., Any]
) -> None:
    images = [png_of(1024, 1024)] * 16
    with serving(bundles["fanogan"], max_pixels_per_request=16 * 2**20) as port:
        with peak_growth_mib() as growth:
            answer = ask(port, PATH, request(*images, png_claiming(5000, 5000), png_claiming(8, 8)))
        assert ask(port, PATH, request(*images, png_of(40, 40))).status == 413
    errors = [tile["error"] for tile in answer.body["scores"]]
    assert errors[:16] == [None] * 16  # what is not decoded does not count
    assert all(errors[16:])
    assert growth[0] < 100


def test_a_score_that_is_no_number_is_an_error(
    bundles: dict[str, str], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    async def broken(bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        return Scores(np.array([np.nan, 1.5]))

    with serving(bundles["fanogan"], parts={"score": broken}) as port:
        bad, good = ask(port, PATH, request(encode(pixels[0]), encode(pixels[1]))).body["scores"]
    assert (bad["score"], bad["error"]) == (None, "the detector gave nan, which is no score")
    assert good["score"] == 1.5


def test_pictures_come_when_asked_for_and_null_from_a_detector_without(
    bundles: dict[str, str], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    reconstructions = {"dpa": pixels[:2, ::-1], "enlarged_nuclei": None}

    async def score(bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        kind = bundle.description.detector.kind
        pictures = TilePictures(np.arange(2), pixels, reconstructions[kind]) if wanted.pictures else None
        return Scores(np.array([1.0, 2.0]), pictures=pictures)

    body = request(encode(pixels[0]), encode(pixels[1]), "?")
    for kind, expected in reconstructions.items():
        with serving(bundles[kind], parts={"score": score}) as port:
            plain = ask(port, PATH, body).body["scores"]
            told = ask(port, PATH, body | {"reconstructions": True}).body["scores"]
        assert [set(s) for s in plain] == [{"id", "score", "error"}] * 3
        assert [set(s) for s in told] == [{"id", "score", "error", "reconstruction"}] * 3
        pngs = [s["reconstruction"] for s in told]
        assert pngs[2] is None
        if expected is None:
            assert pngs == [None] * 3
        else:
            seen = [decode_tile(png, tile_px=40, max_image_px=64) for png in pngs[:2]]
            np.testing.assert_array_equal(seen, expected)
