"""Ready detectors: packed without their backbone, put together again byte for byte, and refused where that fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from seaweed import SeaweedServer

from uadray.detectors import dpa
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import DESCRIPTION, WEIGHTS, read_bundle, write_bundle
from uadray.errors import InputError, WorkError
from uadray.ready import packing
from uadray.ready.assembly import write_ready
from uadray.ready.entries import ABOUT, BUNDLE, FITTED, MEASURED, READY, Entry, Figures, entries, entry_named, entry_of
from uadray.storage import objects
from uadray.tiles.spec import TileSpec

CONFIG = dpa.Config(kind="dpa", input_px=32, layers=("block0", "block2"), width=4)
ABOUT_VALUES: dict[str, Any] = {
    "title": "Toy", "intended_use": "Tests.", "not_for": [], "training_data": "none", "evaluation_data": "none",
    "factors": [], "limits": [], "advice": [], "licence": "Apache-2.0",
}  # fmt: skip
FIGURES = Figures.model_validate(
    {"budget": "none", "command": "none", "figures": [{"what": "AUROC", "data": "d", "value": 0.5}]}
)

Trained = Callable[..., str]


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """Writes a bundle whose networks have random weights beside the pinned backbone, and returns its folder."""

    def write(name: str = "trained", *, seed: int = 0, training_data: dict[str, Any] | None = None) -> str:
        torch.manual_seed(seed)
        networks = build_networks(CONFIG)
        uri = str(tmp_path / name)
        tiles = TileSpec(mpp=1.0, tile_px=32)
        write_bundle(uri, networks, name="toy", detector=CONFIG, tiles=tiles, training_data=training_data or {})
        return uri

    return write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of ready detectors, with what a person wrote about one."""
    (tmp_path / "ready" / "toy_10x").mkdir(parents=True)
    (tmp_path / "ready" / "toy_10x" / ABOUT).write_text(json.dumps(ABOUT_VALUES))
    return tmp_path / "ready"


@pytest.fixture
def entry(trained: Trained, root: Path) -> Entry:
    return packing.pack(trained(), name="toy-10x", root=root)


def test_what_is_put_together_is_what_was_trained(entry: Entry, root: Path, tmp_path: Path) -> None:
    """Byte for byte, and the package's part has no tensor of the backbone."""
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert write_ready(entry, first)
    assert write_ready(entry, second)
    for name in (WEIGHTS, DESCRIPTION):
        original = (tmp_path / "trained" / name).read_bytes()
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes() == original
    assert not any("_blocks" in key for key in load_file(entry.folder / FITTED))
    assert entry.measured.size_bytes == (tmp_path / "first" / WEIGHTS).stat().st_size
    assert entry_of(read_bundle(first), root) == entry


def test_pulling_again_changes_nothing(entry: Entry, tmp_path: Path) -> None:
    """A calibration stays; weights that were cut off or damaged are written anew."""
    uri = str(tmp_path / "out")
    write_ready(entry, uri)
    objects.write_bytes(f"{uri}/calibration.json", b"{}")
    assert not write_ready(entry, uri)
    assert objects.exists(f"{uri}/calibration.json")
    whole = objects.read_bytes(f"{uri}/{WEIGHTS}")
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        objects.write_bytes(f"{uri}/{WEIGHTS}", damaged)
        assert write_ready(entry, uri)
        assert objects.read_bytes(f"{uri}/{WEIGHTS}") == whole


def test_another_bundle_is_not_overwritten(entry: Entry, trained: Trained) -> None:
    other = trained("other", seed=1)
    with pytest.raises(InputError, match=r"other holds another bundle, toy \([0-9a-f]{12}\): pull into another folder"):
        write_ready(entry, other)
    assert read_bundle(other).id != entry.bundle.id


def test_other_bytes_are_not_written(entry: Entry, tmp_path: Path) -> None:
    fitted = load_file(entry.folder / FITTED)
    key = sorted(fitted)[0]
    save_file(fitted | {key: fitted[key] + 1}, entry.folder / FITTED)
    with pytest.raises(WorkError, match=r"toy-10x: put together here it has SHA-256 [0-9a-f]{64}, expected"):
        write_ready(entry, str(tmp_path / "out"))
    assert not (tmp_path / "out" / WEIGHTS).exists()
    save_file({k: v for k, v in fitted.items() if k != key}, entry.folder / FITTED)
    with pytest.raises(WorkError, match="is not of these networks"):
        write_ready(entry, str(tmp_path / "out"))


def test_a_backbone_that_was_changed_is_not_left_out(tmp_path: Path, root: Path) -> None:
    networks = build_networks(CONFIG)
    next(iter(networks["features"].parameters())).mul_(2)
    uri = str(tmp_path / "bundle")
    write_bundle(uri, networks, name="n", detector=CONFIG, tiles=TileSpec(mpp=1.0, tile_px=32))
    with pytest.raises(InputError, match=r"features\.backbone\.\S+ is not that of the pinned weights"):
        packing.pack(uri, name="toy-10x", root=root)
    assert not (root / "toy_10x" / BUNDLE).exists()


def test_marks_of_slides_are_not_given_away(trained: Trained, root: Path) -> None:
    with pytest.raises(InputError, match="names the slides it was trained on"):
        packing.pack(trained(training_data={"salt": "s", "slides": ["a"]}), name="toy-10x", root=root)


def test_nobody_has_written_about_it(trained: Trained, root: Path) -> None:
    with pytest.raises(InputError, match=r"new_one/about\.json"):
        packing.pack(trained(), name="new-one", root=root)


def test_figures_stay_with_their_weights(entry: Entry, trained: Trained, root: Path) -> None:
    assert entry.measured.figures is None
    measured = packing.pack(trained(), name="toy-10x", figures=FIGURES, root=root)
    assert measured.measured.figures == FIGURES
    assert packing.pack(trained(), name="toy-10x", root=root).measured.figures == FIGURES
    assert packing.pack(trained(seed=1), name="toy-10x", root=root).measured.figures is None


def test_an_unknown_name_gives_the_nearest(entry: Entry, root: Path) -> None:
    with pytest.raises(InputError, match=r"no ready bundle called 'toy-20x'; did you mean 'toy-10x'"):
        entry_named("toy-20x", root)
    with pytest.raises(InputError, match="this installation has none"):
        entry_named("toy-10x", root / "toy_10x")


@pytest.mark.s3
def test_a_bundle_in_s3(entry: Entry, s3: SeaweedServer) -> None:
    uri = f"s3://{s3.bucket}/ready"
    assert [write_ready(entry, uri), write_ready(entry, uri)] == [True, False]
    assert read_bundle(uri).id == entry.bundle.id


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_what_comes_with_uadray(entry: Entry, tmp_path: Path) -> None:
    """Each can be put together, is small, and has figures of its own."""
    assert write_ready(entry, str(tmp_path / "out"))
    assert entry.measured.figures is not None
    assert sum(path.stat().st_size for path in entry.folder.iterdir()) < packing.MAX_FITTED_BYTES
    assert {path.name for path in entry.folder.iterdir()} == {ABOUT, BUNDLE, FITTED, MEASURED}
    assert entry.folder.parent == READY
