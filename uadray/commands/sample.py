"""`uadray sample`: pictures of a trained generator, as PNG tiles, as a grid, and on the way from one to the next."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import torch

from uadray.commands.progress import Tick, progress
from uadray.detectors import fanogan
from uadray.detectors.building import outline_of
from uadray.detectors.bundle import read_bundle
from uadray.detectors.pixels import Pixels, to_pixels
from uadray.errors import InputError
from uadray.generators.bundle import load_generator, read_generator
from uadray.generators.catalog import GeneratorConfig
from uadray.generators.pictures import drawn, interpolated
from uadray.networks.bundle_description import kind_of
from uadray.networks.bundle_folder import opened_weights
from uadray.networks.outline import Networks
from uadray.reports.pictures import encode_png, sample_grid
from uadray.storage import objects
from uadray.tilesets.image_files import IMAGE_SUFFIXES

MOST = 1_000_000
"""Pictures of one command; FID as published takes 50,000."""

IN_GRID, COLUMNS = 64, 8
"""Pictures in the grid, and in a row of it."""

MOST_STEPS = 64
"""From one picture to the next: columns of the strip."""

WRITERS = 8
"""Files that are written at once."""


def run(bundle_uri: str, **options: Any) -> dict[str, Any]:
    """Draw pictures with a progress bar; see `draw`."""
    with progress("sample") as tick:
        return draw(bundle_uri, tick=tick, **options)


def draw(
    bundle_uri: str, *, n: int, truncation: float = 1.0, seed: int = 0, grid: str | None = None, out: str | None = None,
    interpolate: int = 0, device: str = "cpu", tick: Tick,
) -> dict[str, Any]:  # fmt: skip
    """Draw pictures of a generator, or of the generator of an f-AnoGAN.

    Args:
        bundle_uri: of the bundle.
        n: how many.
        truncation: towards the mean style, where the generator has styles; 1 for none.
        seed: of the latents: the same pictures for the same seed, and the first ones of a longer run.
        grid: PNG file or s3:// URI of the first `IN_GRID`; None for none.
        out: folder or s3:// URI that gets `<number>.png`; a tile set, whose label is the folder's name. None for none.
        interpolate: steps from each picture to the next in the strip beside the grid, `<grid>_interpolation.png`; 0 for
            none.
        device: "cpu" or "cuda".
        tick: told of every batch.

    Returns:
        What was drawn, and where it lies.

    Raises:
        InputError: no generator there, or what is asked of it is impossible.
    """
    strip = _check(n, grid=grid, out=out, interpolate=interpolate, device=device)
    config, networks, bundle_id = opened(bundle_uri)
    if strip is not None:  # first: it refuses a truncation before any file is written
        options: dict[str, Any] = {"seed": seed, "truncation": truncation, "device": device}
        rows = [to_pixels(x) for x in interpolated(config, networks, steps=interpolate, **options)]
        objects.write_bytes(strip, encode_png(sample_grid(np.concatenate(rows), None, columns=interpolate)))
    batches = drawn(config, networks, n, seed=seed, truncation=truncation, device=device)
    first = _write((to_pixels(x) for x in batches), n, out=out, tick=tick)
    if grid is not None:
        objects.write_bytes(grid, encode_png(sample_grid(first, None, columns=COLUMNS)), content_type="image/png")
    return {
        "bundle": bundle_id, "kind": config.kind, "n": n, "seed": seed, "truncation": truncation, "out": out,
        "grid": grid, "interpolation": strip,
    }  # fmt: skip


def opened(uri: str) -> tuple[GeneratorConfig, Networks, str]:
    """Configuration and networks of the generator in a bundle, and the bundle's id.

    Raises:
        InputError: there is none in it.
    """
    if kind_of(uri) == "generator":
        bundle = read_generator(uri)
        return bundle.generator, load_generator(uri, bundle), bundle.id
    detector = read_bundle(uri)
    if not isinstance(detector.detector, fanogan.Config):
        raise InputError(
            f"bundle {uri} is a detector ({detector.detector.kind}), which draws nothing; name a generator's bundle "
            "(`uadray train configs/train/generators/dcgan.yaml` makes one) or an f-AnoGAN's"
        )
    with opened_weights(uri, outline_of(detector.detector), sha256=detector.weights_sha256) as networks:
        own = {name: networks[name] for name in ("generator", "average") if name in networks}
        return fanogan.gan_config(detector.detector), own, detector.id


def _check(n: int, *, grid: str | None, out: str | None, interpolate: int, device: str) -> str | None:
    """Refuse what cannot be done before anything is loaded; where the strip goes."""
    if not 1 <= n <= MOST:
        raise InputError(f"--n {n}: draw 1 to {MOST:,} pictures")
    if grid is None and out is None:
        raise InputError("nothing to write: give --grid FILE.png, --out DIR, or both")
    if grid is not None and not grid.lower().endswith(".png"):
        raise InputError(f"--grid {grid}: a grid is a file .png")
    if interpolate and (grid is None or not 2 <= interpolate <= MOST_STEPS):
        raise InputError(f"--interpolate {interpolate}: give --grid FILE.png too, and 2 to {MOST_STEPS} steps")
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu")
    if out is not None and next(objects.list_objects(out, suffixes=IMAGE_SUFFIXES), None) is not None:
        raise InputError(f"{out} already holds pictures; use another --out")
    return f"{grid[:-4]}_interpolation.png" if grid is not None and interpolate else None


def _write(batches: Iterator[Pixels], n: int, *, out: str | None, tick: Tick) -> Pixels:
    """Write pictures as they come; returns the first `IN_GRID`."""
    first: list[Pixels] = []
    numbers, done = count(), 0

    def write(tile: Pixels, number: int) -> None:
        if out is not None:
            objects.write_bytes(objects.join(out, f"{number:06d}.png"), encode_png(tile), content_type="image/png")

    with ThreadPoolExecutor(WRITERS) as pool:
        for pixels in batches:
            list(pool.map(write, pixels, numbers))
            first.extend(pixels[: max(0, IN_GRID - done)])
            done += len(pixels)
            tick(done, n)
    return np.stack(first)
