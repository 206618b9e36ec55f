"""Several configurations: what is refused before any begins, and that what becomes of one does not touch the others."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import command_line
import cv2
import numpy as np
import pytest
import yaml

from uadray.commands import side_by_side
from uadray.commands.models_table import Progress, table_of
from uadray.commands.side_by_side import run
from uadray.errors import InputError
from uadray.generators.bundle import load_generator
from uadray.reports.pictures import encode_png

RUN: dict[str, Any] = {
    "tiles": {"mpp": 1.0, "tile_px": 24, "min_tissue": 0.0}, "epochs": 2, "steps_per_epoch": 20, "batch_size": 8,
    "shuffle_tiles": 64, "threads": 1,
}  # fmt: skip
GAN = {"kind": "wgan_gp", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 2}
DCGAN = {"kind": "dcgan", "input_px": 16, "width": 4, "latent_dim": 8}


def _config(folder: Path, name: str, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(RUN | {"name": name, "generator": GAN} | changes))
    return str(folder / f"{name}.yaml")


@pytest.fixture(autouse=True)
def undiverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pytest prints stays where it is."""
    monkeypatch.setattr("uadray.commands.console.divert", lambda: None)


@pytest.fixture
def tiles(tmp_path: Path) -> str:
    folder = tmp_path / "tiles" / "normal"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(120):
        tile = cv2.resize(rng.integers(60, 220, (4, 4, 3), dtype=np.uint8), (24, 24))
        (folder / f"{n:03d}.png").write_bytes(encode_png(tile))
    return str(folder.parent)


def _run(paths: list[str], data: str, out: Path, overrides: list[str], *, resume: bool = False) -> dict[str, Any]:
    return run(paths, data=data, out=str(out), overrides=overrides, resume=resume, without_ray=True)


def test_what_is_refused(tiles: str, tmp_path: Path) -> None:
    a, b = _config(tmp_path, "a"), _config(tmp_path, "b", generator=DCGAN)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="a: two configurations have this file name"):
        _run([a, _config(tmp_path / "other", "a")], tiles, out, [])
    with pytest.raises(InputError, match=r"--set generator.kappa=2: none of a, b has a field generator.kappa"):
        _run([a, b], tiles, out, ["generator.kappa=2"])
    with pytest.raises(InputError, match=r"b\.yaml: generator.width"):
        _run([a, _config(tmp_path, "b", generator=DCGAN | {"width": 1})], tiles, out, [])
    assert not out.exists()


def test_overrides_are_for_those_that_have_the_field(tmp_path: Path) -> None:
    paths = [_config(tmp_path, "a"), _config(tmp_path, "b", generator=DCGAN)]
    models = side_by_side._models(paths, "out", ["generator.critic_steps=3", "epochs=7", "generator.prior=normal"])
    assert [list(model.overrides) for model in models] == [
        ["generator.critic_steps=3", "epochs=7"], ["epochs=7", "generator.prior=normal"],
    ]  # fmt: skip
    assert [model.config.epochs for model in models] == [7, 7]
    assert [model.out for model in models] == ["out/a", "out/b"]


def test_those_that_are_done_are_left_out(tiles: str, tmp_path: Path) -> None:
    """And one that has collapsed says it again: no process is begun here."""
    paths, out = [_config(tmp_path, "a"), _config(tmp_path, "b")], tmp_path / "out"
    for name in ("a", "b"):
        (out / name).mkdir(parents=True)
        (out / name / "config.yaml").write_text(Path(paths[0 if name == "a" else 1]).read_text())
    (out / "a" / "bundle.json").write_text("{}")
    (out / "b" / "collapsed.txt").write_text("the generator collapsed in epoch 3")
    answer = _run(paths, tiles, out, [], resume=True)
    assert [(row["state"], row.get("why")) for row in answer["models"]] == [
        ("done", None), ("failed", "the generator collapsed in epoch 3"),
    ]  # fmt: skip
    page = (out / "comparison.html").read_text()
    assert "Failed: the generator collapsed in epoch 3" in page
    assert page.count("Failed:") == 1


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    model = Progress("pgan", 64)
    model.take(3, 40, {"phase": "gan", "step": 3, "frechet": 9.5, "validated": ["frechet"], "generator": 0.25})
    failed = Progress("dcgan", 64, state="failed", why="[bold]no more disk")
    Console(width=140).print(table_of([model, failed], title="t"))
    shown = capsys.readouterr().out
    for text in ("training", "3 of 40", "generator 0.25", "frechet 9.5", "[bold]no more disk"):
        assert text in shown


@pytest.mark.ray
@pytest.mark.slow
def test_one_is_killed_and_the_others_finish(tiles: str, tmp_path: Path) -> None:
    """Three jobs on one Ray of two CPUs, the driver of one killed in mid-training."""
    paths = [_config(tmp_path, "a"), _config(tmp_path, "b", generator=DCGAN), _config(tmp_path, "killed", epochs=2000)]
    out = tmp_path / "out"
    command = command_line.start("train", *paths, "--data", tiles, "--out", str(out))
    said: list[str] = []
    assert command.stderr is not None
    for line in command.stderr:
        said.append(line)
        if "killed: training" in line and " 0 of" not in line:  # 20 of, 40 of, ... are steps
            break
    os.kill(_driver(command.pid, paths[2]), signal.SIGKILL)
    output, errors = command.communicate(timeout=150)
    answer = json.loads(output.splitlines()[-1])
    assert command.returncode == 1, said + errors.splitlines()
    assert [row["state"] for row in answer["models"]] == ["done", "done", "failed"]
    assert answer["models"][2]["why"] == "its process was ended by SIGKILL"
    for name in ("a", "b"):
        assert set(load_generator(str(out / name))) > {"generator"}
        lines = (out / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [20, 40]
    page = (out / "comparison.html").read_text()
    assert "SIGKILL" in page
    assert page.count("data:image/jpeg;base64,") >= 4
    time.sleep(1)
    assert not [pid for pid in _processes() if str(tmp_path) in _command_of(pid)]


def _driver(parent: int, path: str) -> int:
    (pid,) = [pid for pid in _processes() if pid != parent and f"train\0{path}\0" in _command_of(pid)]
    return pid


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
