"""`uadray score` of tile sets: what belongs to a tile stays with it; tiles that cannot be told apart are refused."""

import base64
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from uadray.cluster.workers import StreamConfig
from uadray.commands.score import SCORES, score, with_slides_and_labels
from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.errors import InputError, WorkError
from uadray.evaluation.report import evaluate
from uadray.schemas import TILE_SCORES
from uadray.serving.tiles.base64_images import decode_tile
from uadray.tiles.cells import with_cells
from uadray.tiles.spec import TileSpec
from uadray.tilesets.containers import TileRef

GAN = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4)
N = 300
"""More than one part has."""


@pytest.fixture(scope="module")
def bundle_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    uri = str(tmp_path_factory.mktemp("score") / "bundle")
    write_bundle(uri, build_networks(GAN), name="n", detector=GAN, tiles=TileSpec(mpp=1, tile_px=16))
    return uri


def _pngs() -> list[bytes]:
    """N tiles that differ, each half transparent."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 4), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    sinks = [io.BytesIO() for _ in range(N)]
    for sink, tile in zip(sinks, pixels, strict=True):
        Image.fromarray(tile).save(sink, "PNG")
    return [sink.getvalue() for sink in sinks]


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray warns of its own settings
def test_scores_labels_and_slides_stay_with_their_tiles(ray_cluster: None, bundle_uri: str, tmp_path: Path) -> None:
    """Every slide has tiles of the same ids, which are not in order; scores are those of what the endpoint decodes."""
    images = _pngs()
    slides = [f"s{i % 6}" for i in range(N)]
    ids = [f"{(7 * i) % N // 6}" for i in range(N)]
    labels = [("normal", "tumor")[i % 6 % 2] for i in range(N)]
    columns = {"tile_id": ids, "slide_id": slides, "label": labels, "image": images}
    pq.write_table(pa.table(columns), tmp_path / "set.parquet", row_group_size=50)
    out = str(tmp_path / "scores.parquet")
    answer = score(
        str(tmp_path / "set.parquet"), bundle_uri=bundle_uri, bundle=read_bundle(bundle_uri), out=out,
        config=StreamConfig(score_workers=1),
    )  # fmt: skip
    assert (answer["tiles"], answer["scored"], answer["unscored"]) == (N, N, 0)
    online = [decode_tile(base64.b64encode(data).decode(), tile_px=16, max_image_px=64) for data in images]
    expected = dict(zip(zip(slides, ids, strict=True), load_detector(bundle_uri)(np.stack(online)).score, strict=True))
    table = pq.read_table(out).to_pylist()
    assert len(expected) == len(table) == N
    for row in table:
        assert row["score"] == pytest.approx(expected[row["slide_id"], row["tile_id"]], abs=1e-5)
        assert row["label"] == ("normal", "tumor")[int(row["slide_id"][1:]) % 2]
    assert (evaluate(out)["grouped_by"], evaluate(out)["n_groups"]) == ("slide", 6)


def test_tiles_that_cannot_be_told_apart_are_refused(bundle_uri: str, tmp_path: Path) -> None:
    bundle, image = read_bundle(bundle_uri), _pngs()[0]
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"tile_id": ["a", "b", "a"], "slide_id": ["s", "s", "s"], "image": [image] * 3}), path)
    with pytest.raises(InputError, match="tile_id 'a' of slide s is there 2 times; ids must tell tiles apart"):
        score(str(path), bundle_uri=bundle_uri, bundle=bundle, out=str(tmp_path / "o.parquet"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("normal/1.png", image)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("normal/1.png", image)
    with pytest.raises(InputError, match=r"set\.zip: tile_id 'normal/1\.png' is there 2 times"):
        score(str(tmp_path / "set.zip"), bundle_uri=bundle_uri, bundle=bundle, out=str(tmp_path / "o.parquet"))


def test_scores_of_other_tiles_are_never_labelled() -> None:
    columns = {
        field.name: pa.array(["a", "b"] if field.name == "tile_id" else [None] * 2, field.type) for field in TILE_SCORES
    }
    table = pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in TILE_SCORES]))
    refs = [TileRef("a", "normal", ""), TileRef("b", None, "", "s")]
    labelled = with_slides_and_labels(with_cells(table, np.ones((2, 6, 6), np.float32)), refs)
    assert labelled.column_names == SCORES.names  # cells are for pictures
    assert (labelled["label"].to_pylist(), labelled["slide_id"].to_pylist()) == (["normal", None], ["", "s"])
    with pytest.raises(WorkError, match="not those of the tiles that were read"):
        with_slides_and_labels(table, refs[::-1])
