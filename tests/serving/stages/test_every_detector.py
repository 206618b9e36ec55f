"""Batch = Serve = plain Python to 1e-5, for every detector of the catalog and for two of them combined."""

import json
from collections.abc import Callable, Sequence
from functools import cache

import cv2
import numpy as np
import pyarrow as pa
import pytest
import small_detectors
from small_detectors import CONFIGS, TILE_PX
from torch import Tensor

from uadray.detectors import combined, fanogan
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.detectors.detector import STAGES
from uadray.detectors.inversion.axes import LatentsFound
from uadray.detectors.inversion.descent import DescentMap
from uadray.detectors.inversion.search import Found
from uadray.detectors.members import read_members
from uadray.detectors.restoration import RestorationMap
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILES
from uadray.screening.evidence_places import CANDIDATES, LOOKED_AT
from uadray.screening.parts import from_ipc, part_row
from uadray.screening.scorer import PartScorer
from uadray.serving.scores import Wanted
from uadray.serving.stages.loaded_stages import Latents, load_stages, mapped, reconstructed, scored, scored_at_once
from uadray.tiles.images import Pixels
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

SPEC = TileSpec(mpp=1, tile_px=TILE_PX)
ALONE = {config.kind: config for config in CONFIGS}
COMBINED = {"combined": ("dpa", "fanogan"), "combined, on one backbone": ("mahalanobis", "neighbours")}
OVER = {
    f"fanogan over a {generator.kind}": fanogan.Config(kind="fanogan", width=4, generator=generator)
    for generator in (ALONE["anogan"].generator, ALONE["projection"].generator)
}
KINDS = [*ALONE, *OVER, *COMBINED]
WANTED = Wanted(maps=True)


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Gives the URI of a kind's bundle, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("every")

    @cache
    def uri_of(kind: str) -> str:
        config = _combined([uri_of(each) for each in COMBINED[kind]]) if kind in COMBINED else (ALONE | OVER)[kind]
        write_bundle(str(folder / kind), small_detectors.trained(config), name=kind, detector=config, tiles=SPEC)
        return str(folder / kind)

    return uri_of


def _combined(uris: Sequence[str]) -> combined.Config:
    config = combined.Config(kind="combined", bundles=tuple(uris))
    return combined.with_members(config, [member.detector for member in read_members(uris)])


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """More than one batch of a detector."""
    return small_detectors.tiles(70)


def test_every_kind_of_the_catalog_is_tested_here() -> None:
    assert set(ALONE) == small_detectors.kinds(), "add it to SMALL of small_detectors.py"


def in_batch(uri: str, pixels: Pixels) -> tuple[np.ndarray, pa.Table]:
    """Scores as the scoring actor of a screening sends them, and its evidence."""
    n, zeros = len(pixels), [0] * len(pixels)
    apart = [100 * TILE_PX * i for i in range(n)]  # each in a region of its own
    columns = [[str(i) for i in range(n)], [""] * n, apart, zeros, [TILE_PX] * n, [TILE_PX] * n, [1.0] * n, ["t"] * n]
    tiles = pa.table(dict(zip(TILES.names, columns, strict=True)), schema=TILES)
    none = json.dumps([None] * n)
    part = part_row(0, 0, header={"n_parts": 1}, tiles=tiles, pixels=pixels, errors=none, flags=none)
    row = PartScorer({uri: read_bundle(uri)}, "cpu", threads=1)(part)
    scores, evidence = (from_ipc(row[name][0].as_py()[0]) for name in ("scores", "evidence"))
    return np.asarray(scores["score"].to_numpy()), evidence


@pytest.mark.parametrize("kind", KINDS)
def test_batch_serve_and_plain_give_the_same(bundle_of: Callable[[str], str], pixels: Pixels, kind: str) -> None:
    uri = bundle_of(kind)
    detector = load_detector(uri)
    expected = detector(pixels)
    assert expected.score.std() > 1e-3, "scores that say something"
    scale = max(1.0, float(np.abs(expected.score).max()))
    found = {"batch": in_batch(uri, pixels)[0]}

    name = f"{read_bundle(uri).id}@{uri}"
    encoder, generator, scorer = (load_stages(name, [stage], device="cpu") for stage in ("map", "reconstruct", "score"))
    (z,) = mapped(encoder, [(pixels,)])
    (x_hat,) = reconstructed(generator, [(z,)])
    (chain,) = scored(scorer, [(pixels, x_hat, z, WANTED)])
    found["serve, a deployment a stage"] = chain.score
    whole = load_stages(name, STAGES, device="cpu")
    first, second = scored_at_once(whole, [(pixels[:3], WANTED), (pixels[3:], WANTED)])
    found["serve, one deployment"] = np.concatenate([first.score, second.score])

    if kind == "combined, on one backbone":
        assert detector.memory is not None
        assert detector.memory.hits > 0, "its members share their features"

    for host, score in found.items():
        assert np.abs(score - expected.score).max() < 1e-5 * scale, host
    maps = expected.maps(range(70))
    for residual in (chain.residual, np.concatenate([first.residual, second.residual])):
        assert np.abs(residual - maps).max() < 1e-5 * max(1.0, float(np.abs(maps).max()))


@pytest.mark.parametrize("kind", ALONE)
def test_a_search_says_so(bundle_of: Callable[[str], str], kind: str) -> None:
    """Then it is not made again for pictures, and a request may be told that it has too many tiles."""
    detector = load_stages(f"{read_bundle(bundle_of(kind)).id}@{bundle_of(kind)}", ["map"], device="cpu")
    assert detector.searches == isinstance(detector.mapping, DescentMap | LatentsFound | RestorationMap)


@pytest.mark.parametrize("kind", ["anogan", "fanogan", "hybrid", "projection", "restoration"])
def test_a_tiles_numbers_do_not_depend_on_the_requests_it_is_joined_with(
    bundle_of: Callable[[str], str], pixels: Pixels, kind: str
) -> None:
    """Alone, and the others in another order: a search makes much of rounding, which must be the same in any batch."""
    uri = bundle_of(kind)
    pixels = pixels[:40]
    expected = load_detector(uri)(pixels)
    name = f"{read_bundle(uri).id}@{uri}"
    order = np.random.default_rng(0).permutation(np.arange(1, 40))
    encoder, whole = load_stages(name, ["map"], device="cpu"), load_stages(name, STAGES, device="cpu")
    first, *others = (scored_at_once(whole, [(pixels[rows], WANTED)])[0] for rows in ([0], order[:3], order[3:]))
    found = np.concatenate([first.score, *[each.score for each in others]])
    scale = max(1.0, float(np.abs(expected.score).max()))
    assert np.abs(found - expected.score[[0, *order]]).max() < 1e-5 * scale
    if encoder.searches:
        (together,), (alone,) = mapped(encoder, [(pixels,)]), mapped(encoder, [(pixels[7:8],)])
        for each, of_all in zip(_arrays(alone), _arrays(together), strict=True):
            np.testing.assert_array_equal(each[0], of_all[7])


@pytest.mark.parametrize("kind", ["anogan", "projection"])
def test_evidence_has_what_the_one_search_has_found_in_batch_and_in_serve(
    bundle_of: Callable[[str], str], pixels: Pixels, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, pixels, searched = bundle_of(kind), pixels[:40], list[int]()
    search = DescentMap.search

    def counted(self: DescentMap, x: Tensor) -> Found:
        searched.append(len(x))
        return search(self, x)

    monkeypatch.setattr(DescentMap, "search", counted)
    _, evidence = in_batch(uri, pixels)
    assert searched == [2, 40], "a step for two tiles as the actor begins, and the part"
    whole = load_stages(f"{read_bundle(uri).id}@{uri}", STAGES, device="cpu")
    (answer,) = scored_at_once(whole, [(pixels, Wanted(evidence=LOOKED_AT))])
    assert searched == [2, 40, 40]
    assert evidence["tile_id"].to_pylist() == [str(row) for row in answer.pictures.rows[:CANDIDATES]]
    pairs = (("tile", answer.pictures.seen), ("reconstruction", answer.pictures.reconstruction))
    for column, pictures in pairs:
        for data, picture in zip(evidence[column].to_pylist(), pictures[:CANDIDATES], strict=True):
            assert np.abs(decoded(data) - decoded(encode_jpeg(picture))).mean() < 1, column
    best = decoded(evidence["reconstruction"][0].as_py())
    assert np.abs(best - decoded(evidence["tile"][0].as_py())).mean() > 5, "the picture is not the tile"


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(float)


def _arrays(z: Latents) -> list[np.ndarray]:
    return [array for part in z for array in _arrays(part)] if isinstance(z, tuple) else [z]
