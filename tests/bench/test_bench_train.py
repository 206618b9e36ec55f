"""`bench train`: which cases there are, what is judged, and the steps of a small generator in a bare loop."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from uadray.bench import index, train, train_steps
from uadray.bench.train import chosen, judged, write_tiles
from uadray.bench.train_steps import FULL, SMALL, VARIANTS, ReadyLoop, sized
from uadray.errors import InputError
from uadray.tilesets import containers

CPU = torch.device("cpu")


def test_every_generator_has_its_sizes() -> None:
    from typing import get_args

    from uadray.generators.catalog import GeneratorConfig

    kinds = {get_args(member.model_fields["kind"].annotation)[0] for member in get_args(get_args(GeneratorConfig)[0])}
    assert set(FULL) == set(SMALL) == kinds
    large = sized("stylegan2", 512, small=False)
    assert (large.generator.channel_base, large.batch_size) == (32768, 8)  # type: ignore[union-attr]


def test_on_a_gpu_large_pictures_are_measured_too() -> None:
    assert [case for case in chosen((), device="cuda", small=False) if case[1] > 64] == [
        ("stylegan2", 128), ("stylegan2", 256), ("stylegan2", 512),
    ]  # fmt: skip
    assert chosen((), device="cpu", small=True) == [(kind, 16) for kind in FULL]
    with pytest.raises(InputError, match="bench train has no dcgan_8"):
        chosen(["dcgan_8"], device="cpu", small=False)


def _row(**fields: Any) -> dict[str, Any]:
    row = {"generator": "stylegan2", "px": 256, "ratios": {"channels_last": 1.1, "bf16, channels_last": 2.0}}
    return row | {"steps": {"plain": {"s_per_kimg": 20.0}, "captured": {"s_per_kimg": 7.1}}} | fields


@pytest.mark.parametrize(
    ("device", "fields", "missed"),
    [
        ("cuda", {}, []),
        ("cuda", {"steps": {"plain": {"s_per_kimg": 7.3}}}, ["stylegan2_256: s_per_kimg"]),
        ("cuda", {"ratios": {"bf16, channels_last": 0.9}}, ["stylegan2_256: bf16, channels_last"]),
        ("cpu", {"steps": {"plain": {"s_per_kimg": 1000.0}}, "ray": 0.95}, []),
        ("cpu", {"ray": 0.85}, ["stylegan2_256: ray"]),
    ],
)
def test_what_misses_a_goal_is_named(device: str, fields: dict[str, Any], missed: list[str]) -> None:
    found = judged([_row(**fields)], device)
    assert (found["missed"], found["goals_met"]) == (missed, not missed)
    assert set(missed) <= set(found["goals"])
    assert found["ray_measured"] == ("ray" in fields)


def test_a_case_that_fails_costs_no_other_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(config: Any, device: torch.device) -> dict[str, Any]:
        if "pgan" in config.name:
            raise RuntimeError("out of memory")
        return {"ratios": {"channels_last": 1.0}, "steps": {}}

    monkeypatch.setattr(train, "has_ray", lambda: False)
    monkeypatch.setattr(train, "steps_row", of)
    found = index.run("train", only=["pgan", "dcgan"], small=True)
    assert [row.get("failed") for row in found["rows"]] == ["RuntimeError: out of memory", None]
    assert (found["missed"], found["goals_met"]) == (["pgan_16"], False)


def test_steps_are_made_in_whole_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic's five steps before each of the generator."""
    monkeypatch.setattr(train_steps, "SMALL_BATCH", 4)
    loop = ReadyLoop(sized("wgan_gp", 16, small=True), VARIANTS["plain"], CPU)
    told: list[set[str]] = []
    step = loop.trainee.step

    def seen(x: torch.Tensor, progress: float) -> Any:
        losses = step(x, progress)
        told.append(set(losses))
        return losses

    loop.trainee.step = seen  # type: ignore[method-assign]
    loop.warm_up(captured=False)
    assert all("generator" in losses for losses in told), "each kind of step has been made"
    told.clear()
    loop.run(loop.cycle)
    assert [("generator" in losses) for losses in told] == [False] * 4 + [True]
    assert loop.cycle == 5


def test_a_small_generator_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "has_ray", lambda: False)
    monkeypatch.setitem(train.SECONDS, "cpu", 0.0)
    monkeypatch.setattr(train_steps, "SMALL_BATCH", 4)
    found = index.run("train", only=["dcgan"], small=True)
    (row,) = found["rows"]
    assert row["batch"] == 4
    assert row["steps"]["plain"]["images_per_s"] > 0
    assert row["ratios"]["channels_last"] == pytest.approx(
        row["steps"]["channels_last"]["images_per_s"] / row["steps"]["plain"]["images_per_s"]
    )
    assert not found["ray_measured"]


def test_the_tile_set_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "TILES", 8)
    config = sized("pgan", 16, small=True)
    uri = str(write_tiles(tmp_path / "tiles.zip", config))
    assert len(containers.list_tiles(uri, label="normal")) == 8
    with zipfile.ZipFile(uri) as archive:
        assert len({archive.read(name) for name in archive.namelist()}) == 8
