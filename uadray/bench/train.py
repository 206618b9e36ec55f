"""`bench train`: what each generator's training step costs, and what training it on Ray costs beside that.

    ray       images a second of `uadray train` on Ray, reading tiles, with the same step, layout and threads in a bare
              loop on tensors that lie ready just before and just after it; by the wall clock, so of an idle machine.
              Goal: at least 0.9. Left out where Ray is not installed, or on a GPU.
    steps     the bare loop, each variant over `plain`: float32, channel by channel. Goal: what is configured is no
              slower (0.95, as it varies): on a GPU `bf16, channels_last`, on a CPU `channels_last`.
    sizes     (--device cuda) seconds per thousand images and peak memory of StyleGAN2 at 128, 256 and 512 px, with
              adaptive augmentation. Goal: a third of what is published for a V100 (StyleGAN2-ADA, one GPU).

`--small` takes networks for two cores at 16 px. `--only` takes kinds (`stylegan2`), or one at a side (`stylegan2_256`).
"""

import importlib.util
import io
import json
import logging
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from uadray.bench.train_steps import FULL, SIDES_PX, SMALL_PX, VARIANTS, ReadyLoop, measured, pictures, sized, timed
from uadray.commands import train as command
from uadray.detectors.pixels import to_pixels
from uadray.detectors.precision import is_fast
from uadray.errors import InputError
from uadray.reports.pictures import encode_jpeg
from uadray.training.config import TrainConfig

log = logging.getLogger(__name__)

RAY_GOAL = 0.9

LEAST_RATIO = 0.95
"""Of what is configured to `plain`; two measurements of one thing differ by some percent."""

V100_S_PER_KIMG = {128: 12.8, 256: 21.6, 512: 72.5}
"""The least that StyleGAN2-ADA's authors name for one V100."""

SHARE_OF_V100 = 1 / 3

SECONDS = {"cpu": 3.0, "cuda": 1.0}
"""Of each measurement."""

RAY_SECONDS = 8.0
"""About how long an epoch on Ray takes."""

TILES = 512


def run(*, only: Sequence[str] = (), device: str = "cpu", small: bool = False) -> dict[str, Any]:
    """Measure; on two cores with `small` in about five minutes.

    Args:
        only: kinds, or a kind at a side (`stylegan2_256`); all kinds, on a GPU StyleGAN2 at larger sides too.
        device: "cpu" or "cuda".
        small: networks for two cores.

    Raises:
        InputError: there is no such case, or no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("bench train --device cuda: torch sees no GPU here")
    where, rows = torch.device(device), list[dict[str, Any]]()
    for kind, px in chosen(only, device=device, small=small):
        try:
            row = steps_row(sized(kind, px, small=small), where)
            if device == "cpu" and has_ray():
                row |= ray_row(sized(kind, px, small=small))
        except Exception as error:  # one that does not fit into a GPU costs no other its row
            row = {"failed": f"{type(error).__name__}: {error}"[:300]}
        rows.append({"generator": kind, "px": px} | row)
        log.warning("%s", json.dumps(rows[-1]))  # a bench that is cut short has told what it had
    return {"device": device_name(where), "threads": torch.get_num_threads(), "rows": rows, **judged(rows, device)}


def chosen(only: Sequence[str], *, device: str, small: bool) -> list[tuple[str, int]]:
    """Kinds and sides.

    >>> chosen(["dcgan", "stylegan2_256"], device="cuda", small=False)
    [('dcgan', 64), ('stylegan2', 256)]

    Raises:
        InputError: one that there is not.
    """
    px = SMALL_PX if small else SIDES_PX[0]
    known = {f"{kind}_{side}": (kind, side) for kind in FULL for side in SIDES_PX} | {k: (k, px) for k in FULL}
    if unknown := set(only) - set(known):
        names = ", ".join(FULL)
        raise InputError(f"bench train has no {', '.join(sorted(unknown))}; there are: {names}, each with _64 to _512")
    larger = [f"stylegan2_{side}" for side in SIDES_PX[1:]] if device == "cuda" and not small else []
    return [known[name] for name in only or (*FULL, *larger)]


def steps_row(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Every variant that the device has, and its ratio to `plain`."""
    names = [name for name in VARIANTS if _is_for(name, config, device)]
    steps = {name: measured(config, name, device, seconds=SECONDS[device.type]) for name in names}
    plain = steps["plain"]["images_per_s"]
    ratios = {name: found["images_per_s"] / plain for name, found in steps.items() if name != "plain"}
    return {"batch": config.batch_size, "steps": steps, "ratios": ratios}


def _is_for(name: str, config: TrainConfig, device: torch.device) -> bool:
    """Whether a variant is measured on a device. On a GPU each takes seconds to begin, those of large pictures more."""
    if device.type == "cuda":
        is_large = config.input_px > SIDES_PX[0]
        return name not in (("bf16", "channels_last") if is_large else ("bf16",))
    return not VARIANTS[name].captured and (is_fast(device) or not VARIANTS[name].bf16)


def default_of(device: torch.device) -> str:
    """What the configurations of generators ask for."""
    return "bf16, channels_last" if device.type == "cuda" else "channels_last"


def has_ray() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def ray_row(config: TrainConfig) -> dict[str, float]:
    """Images a second on Ray and in the bare loop with one thread, and their ratio."""
    device, threads = torch.device("cpu"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loop = ReadyLoop(config, VARIANTS["channels_last"], device)
        loop.warm_up(captured=False)
        before = timed(loop, seconds=RAY_SECONDS / 2, wall=True)
        steps = max(2, int(RAY_SECONDS * before / config.batch_size)) // loop.cycle * loop.cycle or loop.cycle
        on_ray = pace_on_ray(config.model_copy(update={"epochs": 2, "steps_per_epoch": steps, "threads": 1}))
        bare = (before + timed(loop, seconds=RAY_SECONDS / 2, wall=True)) / 2
    finally:
        torch.set_num_threads(threads)
    return {"ray_images_per_s": on_ray, "bare_images_per_s": bare, "ray": on_ray / bare}


def pace_on_ray(config: TrainConfig) -> float:
    """Images a second in the last epoch of a training on Ray."""
    from uadray.cluster.connection import connect

    connect()
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
        data = write_tiles(Path(folder) / "tiles.zip", config)
        out = Path(folder) / "out"
        command.train(config, data=str(data), out=str(out))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return float(lines[-1]["tiles_per_second"])


def write_tiles(path: Path, config: TrainConfig) -> Path:
    """A tile set of smooth noise as JPEG files."""
    tiles = to_pixels(torch.cat(pictures(_of_tiles(config), 1, torch.device("cpu"))))
    with zipfile.ZipFile(path, "w") as archive:
        for number, tile in enumerate(tiles):
            file = io.BytesIO(encode_jpeg(tile))
            archive.writestr(f"normal/{number:04d}.jpg", file.getvalue())
    return path


def _of_tiles(config: TrainConfig) -> TrainConfig:
    """One batch of whole tiles."""
    generator = config.generator.model_copy(update={"input_px": config.tiles.tile_px}) if config.generator else None
    return config.model_copy(update={"generator": generator, "batch_size": TILES})


def device_name(device: torch.device) -> str:
    """What people call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def judged(rows: Sequence[dict[str, Any]], device: str) -> dict[str, Any]:
    """The goals of what was measured, what missed them, and whether all were met."""
    default, goals, missed = default_of(torch.device(device)), dict[str, str](), list[str]()
    for row in rows:
        name = f"{row['generator']}_{row['px']}"
        if "failed" in row:
            missed.append(name)
            continue
        goals[f"{name}: {default}"] = f">= {LEAST_RATIO:g}"
        missed += [f"{name}: {default}"] * (row["ratios"][default] < LEAST_RATIO)
        if "ray" in row:
            goals[f"{name}: ray"] = f">= {RAY_GOAL:g}"
            missed += [f"{name}: ray"] * (row["ray"] < RAY_GOAL)
        if device == "cuda" and row["generator"] == "stylegan2" and row["px"] in V100_S_PER_KIMG:
            goal = V100_S_PER_KIMG[row["px"]] * SHARE_OF_V100
            goals[f"{name}: s_per_kimg"] = f"<= {goal:.1f}"
            missed += [f"{name}: s_per_kimg"] * (min(s["s_per_kimg"] for s in row["steps"].values()) > goal)
    return {
        "ray_measured": any("ray" in row for row in rows),
        "goals": goals,
        "missed": missed,
        "goals_met": not missed,
    }
