"""The scoring actor: tiles of one part in; their scores, trivial scores and pictures of the highest out."""

import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import BATCH, Scored
from uadray.detectors.pixels import Pixels
from uadray.errors import SYSTEM_REASONS, reason_of
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES
from uadray.screening.parts import failed_part, flag_error, from_ipc, part_row, pixels_of, to_ipc
from uadray.screening.slide_result import EVIDENCE, EVIDENCE_TILES
from uadray.storage import objects, s3_client

SLIDES_AT_ONCE = 64
"""Slides whose best scores an actor remembers; parts of no more than some are on the way at once."""

ScoreTiles = Callable[[npt.NDArray[np.uint8]], Scored]
"""What a scoring actor needs of a detector: RGB tiles [N, tile, tile, 3] -> `Scored`."""

LoadDetector = Callable[..., ScoreTiles]
"""Called as `load_detector` is, in the actor. Benchmarks give one whose cost they know."""


class PartScorer:
    """The scoring actor: map, reconstruct and score fused, so that pixels arrive once and never leave."""

    def __init__(
        self, bundle_uri: str, bundle: Bundle, device: str, threads: int, load: LoadDetector = load_detector,
        batch_tiles: int | None = None,
    ) -> None:  # fmt: skip
        self._threads = threads if device == "cpu" else 1
        torch.set_num_threads(1 if self._threads > 1 else threads)
        if objects.is_s3(bundle_uri):
            s3_client.assume_reachable()  # the driver has read the bundle's description there
        self.detector = load(bundle_uri, bundle, device=device, **({"batch_tiles": batch_tiles} if batch_tiles else {}))
        self._known = known_tiles(bundle)
        self.detector(self._known)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="uadray-score")
        self._shown: OrderedDict[int, dict[int, list[float]]] = OrderedDict()

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of the reader -> a row of the scorer (columns: see `uadray.cluster.stream`)."""
        (row,) = table.drop_columns(["pixels"]).to_pylist()
        if row["part"] < 0:
            return table
        began = time.perf_counter()
        try:
            return self._scored(row, pixels_of(table), began)
        except Exception as error:  # names the slide, or the device, instead of ending the job
            word, message = reason_of(error)
            if word not in SYSTEM_REASONS:
                word = "device" if self._is_broken() else "scoring"
            return failed_part(row["slide"], word, f"the detector failed: {message}")

    def _is_broken(self) -> bool:
        """Whether tiles that were scored when this actor began cannot be scored any more: it is not the slide, then."""
        try:
            self.detector(self._known)
        except Exception:
            return True
        return False

    def _scored(self, row: dict[str, Any], pixels: pa.Buffer, began: float) -> pa.Table:
        tiles, errors, flags = from_ipc(row["tiles"]), json.loads(row["errors"]), json.loads(row["flags"])
        floor = self._floor(row["slide"], row["part"])
        scores, pictures = score_tiles(self._detect, tiles, pixels, errors, flags, floor=floor)
        self._shown[row["slide"]][row["part"]] = pictures["score"].to_pylist()
        header = json.loads(row["header"]) | {
            "score_s": time.perf_counter() - began,
            "errors": sum(e is not None for e in errors),
        }
        return part_row(
            row["slide"], row["part"], header=header, preview=row["preview"], masks=row["masks"],
            flagged=row["flagged"], tiles=scores, evidence=to_ipc(pictures),
        )  # fmt: skip

    def _detect(self, images: Pixels) -> Scored:
        """On CPUs a thread scores some tiles of its own: 1.2 times as fast as all threads in each operation of one."""
        if self._threads == 1:
            return self.detector(images)
        batch_tiles = getattr(self.detector, "batch_tiles", BATCH)
        step = max(4, batch_tiles // self._threads)  # together no more activations than one batch has
        parts = list(self._pool.map(self.detector, [images[i : i + step] for i in range(0, len(images), step)]))

        def pictures(rows: Sequence[int]) -> tuple[Pixels, Pixels]:
            pairs = [parts[row // step].pictures([row % step]) for row in rows]
            x, x_hat = (np.concatenate(column) for column in zip(*pairs, strict=True))
            return x, x_hat

        score, residual = (np.concatenate([getattr(p, name) for p in parts]) for name in ("score", "residual"))
        return Scored(score, residual, pictures)

    def _floor(self, slide: int, part: int) -> float:
        """A tile of this part that scores no more will not be among the slide's evidence: others are, sent before."""
        parts = self._shown.setdefault(slide, {})
        if len(self._shown) > SLIDES_AT_ONCE:
            self._shown.popitem(last=False)
        others = sorted(score for other, scores in parts.items() if other != part for score in scores)
        return others[-EVIDENCE_TILES] if len(others) >= EVIDENCE_TILES else -math.inf


def score_tiles(
    detector: ScoreTiles, tiles: pa.Table, pixels: pa.Buffer, errors: list[str | None], flags: list[str | None],
    *, floor: float = -math.inf,
) -> tuple[pa.Table, pa.Table]:  # fmt: skip
    """Score one part; returns rows of `TILE_SCORES` and of `EVIDENCE`. A tile with an error or a flag has no score.

    Evidence is of tiles that score more than `floor`: pictures cost as much as a third of the decoding.
    """
    n = len(tiles)
    errors = [error or (flag and flag_error(flag)) for error, flag in zip(errors, flags, strict=True)]
    good = np.array([e is None for e in errors], dtype=bool)
    side = int(np.sqrt(pixels.size / (3 * n))) if n else 0
    images = np.frombuffer(pixels, np.uint8).reshape(n, side, side, 3)
    score = np.full(n, np.nan)
    scored = detector(images if good.all() else images[good]) if good.any() else None
    if scored is not None:
        score[good] = scored.score
    texts = [e or (None if np.isfinite(s) else "the score is not finite") for e, s in zip(errors, score, strict=True)]
    saturation, green = trivial_scores(images)
    columns = {
        "score": pa.array(score, mask=~np.isfinite(score)),
        "mean_saturation": pa.array(saturation, pa.float32(), mask=~good),
        "mean_green": pa.array(green, pa.float32(), mask=~good),
        "flag": pa.array(flags, pa.string()),
        "error": pa.array(texts, pa.string()),
    }
    table = pa.table({**{name: tiles[name] for name in tiles.column_names}, **columns}, schema=TILE_SCORES)
    return table, _pictures(table.filter(pa.array(good)), scored, floor)


def trivial_scores(images: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
    """Mean HSV saturation and mean green of RGB tiles [N, h, w, 3], each [N] in 0 to 1.

    Of larger tiles every second, third, ... pixel a side is looked at, so that 64 x 64 to 127 x 127 remain: on 256 px
    tiles these two numbers cost fifteen times the decoding of the tile before.
    """
    n, height, width, _ = images.shape
    step = max(1, height // 64)
    size = (max(1, width // step), max(1, height // step))
    saturation, green = np.zeros((2, n), np.float32)
    for i, image in enumerate(images):
        some = image if step == 1 else cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
        saturation[i] = cv2.mean(cv2.cvtColor(some, cv2.COLOR_RGB2HSV))[1] / 255
        green[i] = cv2.mean(some)[1] / 255
    return saturation, green


def _pictures(tiles: pa.Table, scored: Scored | None, floor: float) -> pa.Table:
    if scored is None:
        return EVIDENCE.empty_table()
    best = np.argsort(-scored.score)[:EVIDENCE_TILES]
    order = [int(i) for i in best if np.isfinite(scored.score[i]) and scored.score[i] > floor]
    if not order:
        return EVIDENCE.empty_table()
    x, x_hat = scored.pictures(order)
    return pa.table(
        {
            "tile_id": [tiles["tile_id"][i].as_py() for i in order],
            "score": [float(scored.score[i]) for i in order],
            "tile": [encode_jpeg(picture) for picture in x],
            "reconstruction": [encode_jpeg(picture) for picture in x_hat],
        },
        schema=EVIDENCE,
    )


def known_tiles(bundle: Bundle | None) -> Pixels:
    """[2, tile, tile, 3], always the same: what every device must be able to score."""
    side = bundle.tiles.tile_px if bundle is not None else 64
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
