"""What a search trains and judges on: folds, anomalies, and that none of these is trained on."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tile_sets import FILE_GRID, cut, two_slides, write_slide
from tune_searches import SEARCH, tile, tiny_search, write_tiles

from uadray.config import parse_config
from uadray.errors import InputError
from uadray.tilesets.containers import TileRef
from uadray.training import tune_trial
from uadray.training.tune_config import TuneConfig
from uadray.training.tune_data import Asked, check_data, check_folds, choose, folds_of, read_tune_data
from uadray.training.tune_journal import Journal

ASKED = Asked(n=6, seed=3)


def _at(*, mpp: float) -> TuneConfig:
    """The tiny search on tiles of 128 px."""
    train = SEARCH["train"] | {"tiles": {"mpp": mpp, "tile_px": 128, "min_tissue": 0.0}}
    return parse_config(TuneConfig, SEARCH | {"train": train}, source="search")


def _refs(**kinds: int) -> list[TileRef]:
    return [TileRef(f"{kind}/{i}", kind, "") for kind, n in kinds.items() for i in range(n)]


def test_anomalies_come_evenly_from_their_kinds() -> None:
    refs = _refs(a=3, b=50, c=50)
    labels = [refs[i].label for i in choose(refs, Asked(n=20))]
    assert [labels.count(kind) for kind in "abc"] == [3, 9, 8]
    of_one = {refs[i].label for i in choose(refs, Asked(n=20, kinds=1, seed=1))}
    assert len(of_one) == 1
    assert choose(refs, Asked(n=20, seed=1)) == choose(refs, Asked(n=20, seed=1)) != choose(refs, Asked(n=20, seed=2))
    with pytest.raises(InputError, match="--kinds 4: the anomalies are of 3 kinds"):
        choose(refs, Asked(kinds=4))
    with pytest.raises(InputError, match="--n-anomalies 104: there are 103"):
        choose(refs, Asked(n=104))


def test_the_tiles_of_a_slide_are_in_one_fold() -> None:
    slides = [f"s{i % 7}" for i in range(70)] + ["s0"] * 20
    fold, by_slide = folds_of(slides, n=3, seed=5)
    assert by_slide
    assert all(len({f for f, s in zip(fold, slides, strict=True) if s == name}) == 1 for name in slides)
    assert np.bincount(fold).min() >= 20
    assert not folds_of(["a"] * 5 + ["b"] * 5, n=3, seed=0)[1]  # too few slides


def test_nothing_known_as_an_anomaly_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though two of them lie among the normal tiles, under another name, and one of these was not drawn."""
    folder = write_tiles(tmp_path / "tiles")
    anomalies = sorted((folder / "dots").glob("*.png"))
    for path in anomalies[:2]:
        (folder / "normal" / f"copy of {path.name}").write_bytes(path.read_bytes())
    data = read_tune_data(str(folder), str(folder), tiny_search(), Asked(n=2, kinds=1, seed=0))
    assert (data.known, data.left_out, len(data.normals), len(data.anomalies)) == (9, 2, 45, 2)
    known = {cv2.imread(str(path))[..., ::-1].tobytes() for path in folder.glob("[!n]*/*.png")}
    seen: list[np.ndarray] = []
    whole = tune_trial.ArraySource
    monkeypatch.setattr(tune_trial, "ArraySource", lambda tiles, seed: seen.append(tiles) or whole(tiles, seed))
    point = {"detector.latent_channels": 1, "detector.width": 4, "layer": {"detector.layers": ["block1"]}}
    tune_trial.run_trial(tiny_search(), point, data, Journal(str(tmp_path / "out")), lambda line: None)
    trained = [{image.tobytes() for image in tiles} for tiles in seen]
    assert [len(tiles) for tiles in trained] == [30, 30, 30]
    assert not known & set.union(*trained)
    judged = [{image.tobytes() for image in data.normals[data.fold == fold]} for fold in range(3)]
    assert all(not a & b for a, b in zip(trained, judged, strict=True))


def test_a_tile_set_of_slides_gives_folds_of_slides(tmp_path: Path) -> None:
    rows = [*two_slides(tmp_path), write_slide(tmp_path / "c.tif", 3)]
    cut(rows, FILE_GRID, str(tmp_path / "set"))
    (tmp_path / "odd").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "odd" / f"{i}.png"), tile(i, side_px=128))
    config = _at(mpp=1.0)
    data = read_tune_data(str(tmp_path / "set"), str(tmp_path / "odd"), config, Asked(n=3))
    assert data.by_slide
    assert sorted(np.bincount(data.fold)) == [12, 16, 16]
    with pytest.raises(InputError, match=r"its tiles have 1 um/px, train.tiles.mpp is 1.5"):
        check_data(str(tmp_path / "set"), str(tmp_path / "odd"), _at(mpp=1.5))


def test_what_cannot_be_searched_on_is_refused(tmp_path: Path) -> None:
    folder = write_tiles(tmp_path / "tiles", normals=9)
    config = tiny_search()
    with pytest.raises(InputError, match="takes a tile set, no manifest"):
        check_data("slides.csv", str(folder), config)
    with pytest.raises(InputError, match="every normal tile is one of the anomalies"):
        read_tune_data(str(folder), str(folder / "normal"), config, ASKED)
    only = write_tiles(tmp_path / "only", normals=2, kinds={})
    with pytest.raises(InputError, match="all tiles are labelled 'normal'"):
        read_tune_data(str(folder), str(only), config, ASKED)
    cv2.imwrite(str(folder / "dots" / "large.png"), tile(0, side_px=40))
    with pytest.raises(InputError, match="40 x 40 px, others 32 a side"):
        read_tune_data(str(folder), str(folder), config, ASKED)
    (folder / "dots" / "large.png").unlink()
    data = read_tune_data(str(folder), str(folder), config, ASKED)
    with pytest.raises(InputError, match="fold 0: 6 normal tiles to train on, 3 to judge; a batch of 8"):
        check_folds(data, config.train.model_copy(update={"batch_size": 8}), 3)
