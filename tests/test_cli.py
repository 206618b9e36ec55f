"""Bad input: one clear line on standard error, exit status 2, and nothing done."""

import json
from pathlib import Path

import pytest
from command_line import answer, run
from seaweed import SeaweedServer

from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import write_bundle
from uadray.slides.manifest import read_manifest
from uadray.slides.slide import Mpp
from uadray.tiles.spec import TileSpec

TRAIN = """\
name: t
detector: {kind: dpa, input_px: 32}
tiles: {mpp: 1.0, tile_px: 32}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(TRAIN)
    return path


def refused(*arguments: str, env: dict[str, str] | None = None) -> str:
    done = run(*arguments, env=env)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_typo_in_a_configuration_names_the_field_and_the_nearest(config: Path) -> None:
    config.write_text(TRAIN.replace("input_px", "inputpx"))
    line = refused("train", str(config), "--data", "x.csv", "--out", "b")
    assert "detector.inputpx" in line
    assert "did you mean input_px?" in line


def test_an_empty_manifest(config: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,uri\n")
    line = refused("train", str(config), "--data", str(manifest), "--out", str(tmp_path / "b"))
    assert "no rows" in line


def test_a_missing_column(config: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,uri\na,a.tif\n")
    line = refused("train", str(config), "--data", str(manifest), "--out", str(tmp_path / "b"))
    assert "slide_id" in line


def test_a_bundle_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"version": 99}))
    line = refused("screen", str(tmp_path), "--slides", "m.csv", "--out", str(tmp_path / "o"))
    assert "version 99" in line


def test_no_bundle_at_all(tmp_path: Path) -> None:
    line = refused("calibrate", str(tmp_path), "--slides", "m.csv")
    assert "is no bundle" in line


@pytest.mark.s3
def test_a_missing_bucket(config: Path, tmp_path: Path, s3_server: SeaweedServer) -> None:
    line = refused(
        "train", str(config), "--data", "s3://nowhere/m.csv", "--out", str(tmp_path / "b"), env=s3_server.env
    )
    assert "nowhere" in line


@pytest.mark.s3
def test_wrong_credentials(config: Path, tmp_path: Path, s3_server: SeaweedServer) -> None:
    env = s3_server.env | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    data = f"s3://{s3_server.bucket}/m.csv"
    line = refused("train", str(config), "--data", data, "--out", str(tmp_path / "b"), env=env)
    assert "credentials" in line.lower() or "AWS_" in line
    assert "wrong" not in line


def test_tumours_do_not_calibrate_however_their_heading_is_written(tmp_path: Path, data_dir: Path) -> None:
    config = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4)
    write_bundle(
        str(tmp_path), build_networks(config), name="n", detector=config, tiles=TileSpec(mpp=Mpp(1.0), tile_px=32)
    )
    line = refused("calibrate", str(tmp_path), "--slides", str(data_dir / "cases" / "02_headings" / "Label.csv"))
    assert line.endswith("calibration takes normal slides alone; labelled otherwise: s5, s6, s7, s8, s9")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("open_quote.csv", "row 3: a quote is opened there and not closed"),
        ("cr.csv", ["007", "008"]),
    ],
)
def test_odd_manifests(tmp_path: Path, data_dir: Path, name: str, expected: str | list[str]) -> None:
    out = tmp_path / "out.csv"
    command = ("split", str(data_dir / "cases" / "12_manifests" / name), "--out", str(out))
    if isinstance(expected, str):
        assert expected in refused(*command)
        assert not out.exists()
    else:
        done = run(*command)
        assert (done.returncode, answer(done)["slides"]) == (0, 2), done.stderr
        assert [row.slide_id for row in read_manifest(str(out))] == expected


def test_logs_name_slides_where_they_are_told_to(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,uri\nsecret1,a.tif\nsecret2,a.tif\n")
    command = ("split", str(manifest), "--out", str(tmp_path / "o.csv"))
    silent, told = run(*command), run(*command, "--show-ids")
    assert "several ids" in silent.stderr
    assert "secret" not in silent.stderr
    assert "secret1, secret2" in told.stderr
