"""The folder of edited masks: what is used is counted, what matches no slide is named, and nothing is ignored."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import run
from seaweed import SeaweedServer
from typer.testing import CliRunner

from uadray.cli import app
from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import write_bundle
from uadray.errors import InputError
from uadray.storage import objects
from uadray.tiles.mask_folder import MaskFolder, check_folder
from uadray.tiles.spec import TileSpec

NO_REGION = b'{"type": "FeatureCollection", "features": []}'


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, also where the command line has set logging up."""
    logger = logging.getLogger("uadray.tiles.mask_folder")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def _put(folder: str, *names: str) -> None:
    for name in names:
        objects.write_bytes(objects.join(folder, name), NO_REGION)


@pytest.mark.parametrize("place", ["disk", pytest.param("s3", marks=pytest.mark.s3)])
def test_files_that_match_no_slide_are_named(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, warnings: pytest.LogCaptureFixture
) -> None:
    folder = str(tmp_path / "m")
    if place == "s3":
        folder = f"s3://{request.getfixturevalue('s3').bucket}/check/m"
    _put(folder, "a.geojson", "b.geojson", ".DS_Store")
    _put(folder, "A.geojson", "c.json", "a.svs.geojson", "d.GEOJSON", "old/c.geojson")
    found = check_folder(folder, ["a", "b", "c", "d"])
    assert found == MaskFolder(("a", "b"), ("A.geojson", "a.svs.geojson", "c.json", "d.GEOJSON", "old/c.geojson"))
    (record,) = {record.getMessage() for record in warnings.records}
    assert "5 files match no slide and are not used: A.geojson, a.svs.geojson, c.json, ..." in record


def test_a_folder_that_fits_and_no_folder_say_nothing(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    _put(str(tmp_path), "a.geojson")
    assert check_folder(str(tmp_path), ["a", "b"]) == MaskFolder(("a",), ())
    assert check_folder(None, ["a"]) == MaskFolder((), ())
    assert not warnings.records


@pytest.mark.parametrize("relative", [".", "./masks/..", "masks"])
def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: str) -> None:
    _put(str(tmp_path), "a.geojson", "masks/a.geojson")
    monkeypatch.chdir(tmp_path)
    assert check_folder(relative, ["a"]).used == ("a",)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (None, "there is no such folder"),
        ([], "it is empty; a mask is named <slide_id>.geojson"),
        (["b.geojson", "x.geojson"], r"none of its 2 files \(b.geojson, x.geojson\) is named <slide_id>.geojson"),
        (["a.json"], r"none of its 1 files \(a.json\) is named"),
    ],
)
def test_a_folder_that_would_be_ignored_is_refused(files: list[str] | None, what: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    if files is not None:
        folder.mkdir()
        _put(str(folder), *files)
    with pytest.raises(InputError, match=what):
        check_folder(str(folder), ["a"])


@pytest.mark.s3
def test_an_empty_prefix_and_a_missing_bucket_are_refused(s3: SeaweedServer) -> None:
    with pytest.raises(InputError, match="it is empty"):
        check_folder(f"s3://{s3.bucket}/nothing/here", ["a"])
    with pytest.raises(InputError, match="no-such-bucket"):
        check_folder("s3://no-such-bucket/masks", ["a"])


def test_a_command_ends_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("slide_id,uri\na,a.tif\n")
    out = tmp_path / "out"
    done = run("tile", "--slides", str(tmp_path / "m.csv"), "--out", str(out), "--mask-dir", str(tmp_path / "masks"))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"uadray: --mask-dir {tmp_path}/masks: there is no such folder"]
    assert not out.exists()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_commands_say_how_many_masks_they_used(
    ray_cluster: None, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the slide is cut out: 32 of 64 tiles are left."""
    monkeypatch.setattr("uadray.commands.progress.divert", lambda: None)  # it would divert what pytest prints
    case = data_dir / "cases" / "05_edited_masks"
    manifest, masks, bundle = (tmp_path / name for name in ("m.csv", "masks", "bundle"))
    for i in range(2):  # calibration takes no file twice
        (tmp_path / f"s{i}.tif").write_bytes((case / "slide.tif").read_bytes() + bytes(i))
    manifest.write_text("slide_id,uri\ns0,s0.tif\ns1,s1.tif\n")
    masks.mkdir()
    (masks / "s1.geojson").write_bytes((case / "masks" / "artifact.geojson").read_bytes())
    config = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4)
    tiles = TileSpec(mpp=1.0, tile_px=64)
    write_bundle(str(bundle), build_networks(config), name="n", detector=config, tiles=tiles)
    common = ("--slides", str(manifest), "--mask-dir", str(masks))
    cut = _answer("tile", *common, "--out", str(tmp_path / "set"), *GRID)
    assert (cut["masks_used"], cut["tiles"]) == (1, 64 + 32)
    assert _answer("calibrate", str(bundle), *common, "--alpha", "0.5")["masks_used"] == 1
    screened = _answer("screen", str(bundle), *common, "--out", str(tmp_path / "out"))
    assert (screened["masks_used"], screened["scored"]) == (1, 2)
    decision = json.loads((tmp_path / "out" / "decisions" / "s1.json").read_bytes())
    assert decision["n_tiles"] == 32


GRID = ("--mpp", "1", "--tile-px", "64", "--min-tissue", "0.5")


def _answer(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    values: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return values
