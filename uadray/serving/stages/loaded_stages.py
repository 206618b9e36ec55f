"""What a replica of a stage computes for requests of one bundle that came together. Knows nothing of Ray.

    mapped          pixels [N, tile, tile, 3] uint8    -> z, an array [N, ...] or a tuple of such latents
    reconstructed   z                                  -> x_hat [N, 3, h, w] float32, or None
    scored          pixels, x_hat, z, Wanted           -> Scores
    scored_at_once  pixels, Wanted                     -> Scores, the three stages in one place

Each takes a list of requests, the tuples above, and gives an answer to each, in their order; a tile's numbers do not
depend on the others. They are the numbers of the same `Detector` that batch uses. Arrays of numpy travel between
replicas. The pixels travel twice, as bytes: the stage `score` makes x of them again, of four times as many bytes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uadray.config import parse_config
from uadray.detectors.building import build_detector
from uadray.detectors.bundle import Bundle, load_detector, read_bundle
from uadray.detectors.description import BundleDescription
from uadray.detectors.detector import Detector, Stage, pooled
from uadray.detectors.latents import Latent, row_of
from uadray.detectors.pixels import centre, to_pixels
from uadray.errors import ChangedError
from uadray.serving.scores import Floats, Scores, TilePictures, Wanted
from uadray.tiles.images import Pixels

Latents = npt.NDArray[Any] | tuple[Any, ...]
"""What the stage `map` gives, an array or a tuple of such latents: N comes first in each array."""

Pictures = Callable[[npt.NDArray[np.int64]], tuple[Pixels, Pixels | None]]
"""Numbers of tiles -> what the detector looked at and its reconstruction; see `Detector.pictures`."""


ToScore = tuple[Pixels, Floats | None, Latents, Wanted]
"""Tiles behind the stages `map` and `reconstruct`, and what is wanted of them."""


def load_stages(
    model_id: str, stages: Collection[Stage], *, device: str, batch_tiles: int | None = None
) -> Detector:  # fmt: skip
    """The detector of a bundle, with the networks of these stages.

    Args:
        model_id: `<id of the bundle>@<its URI>`.
        stages: that will be used.
        device: "cpu" or "cuda".
        batch_tiles: tiles in one forward pass; None leaves it to the detector.

    Raises:
        ChangedError: another bundle lies there by now.
        InputError: no bundle lies there, or a damaged one.
    """
    bundle_id, _, uri = model_id.partition("@")
    bundle = read_bundle(uri)
    if bundle.id != bundle_id:
        raise ChangedError(f"bundle {uri} is {bundle.id} by now, not {bundle_id}; name it anew")
    return load_detector(uri, bundle, device=device, batch_tiles=batch_tiles, stages=stages)


def makes_pictures(bundle: BundleDescription) -> bool:
    """Whether a bundle's detector makes reconstructions; none of its networks is loaded to know that.

    Raises:
        InputError: there is no such detector.
    """
    return _unloaded(bundle).has_picture


def searches(bundle: BundleDescription) -> bool:
    """Whether a bundle's detector searches for its latents; none of its networks is loaded to know that.

    Raises:
        InputError: there is no such detector.
    """
    return _unloaded(bundle).searches


def _unloaded(bundle: BundleDescription) -> Detector:
    detector = parse_config(Bundle, bundle.model_dump(), source="bundle").detector
    return build_detector(detector, {}, device="cpu", batch_tiles=None, stages=())


@torch.inference_mode()
def mapped(detector: Detector, asked: Sequence[tuple[Pixels]]) -> list[Latents]:
    """Latents of each request's tiles."""
    pixels = [tiles for (tiles,) in asked]
    z = _joined_latents([detector.mapping(x) for x in detector.inputs(_joined_pixels(pixels, detector))])
    return [_rows(z, start, end) for start, end in _spans([len(tiles) for tiles in pixels])]


@torch.inference_mode()
def reconstructed(detector: Detector, asked: Sequence[tuple[Latents]]) -> list[Floats | None]:
    """Reconstructions of each request's latents; None from a detector that has none."""
    z = [latents for (latents,) in asked]
    parts = [detector.reconstruct(batch) for batch in _latent_batches(_stacked(z), detector)]
    x_hats = [part for part in parts if part is not None]
    if not x_hats:
        return [None] * len(z)
    x_hat = _joined(x_hats)
    return [x_hat[start:end] for start, end in _spans([n_tiles(latents) for latents in z])]


@torch.inference_mode()
def scored(detector: Detector, asked: Sequence[ToScore]) -> list[Scores]:
    """Scores of each request's tiles, given their reconstructions, if there are any, and their latents."""
    given = [x_hat for _, x_hat, _, _ in asked if x_hat is not None]
    x_hats: Iterable[Tensor | None] = _batches(np.concatenate(given), detector) if given else repeat(None)
    z = _latent_batches(_stacked([latents for _, _, latents, _ in asked]), detector)
    inputs = detector.inputs(_joined_pixels([pixels for pixels, _, _, _ in asked], detector))
    outcomes = (detector.score(*batch) for batch in zip(inputs, x_hats, z, strict=False))

    def pictures(pixels: Pixels, x_hat: Floats | None) -> Pictures:
        def of(rows: npt.NDArray[np.int64]) -> tuple[Pixels, Pixels | None]:
            seen = np.ascontiguousarray(centre(pixels[rows], detector.input_px))
            return seen, None if x_hat is None else to_pixels(torch.from_numpy(x_hat[rows]))

        return of

    return _answers(
        detector, outcomes, [(len(pixels), wanted, pictures(pixels, x_hat)) for pixels, x_hat, _, wanted in asked]
    )


@torch.inference_mode()
def scored_at_once(detector: Detector, asked: Sequence[tuple[Pixels, Wanted]]) -> list[Scores]:
    """Scores of each request's tiles, by the three stages one after the other, batch by batch."""
    found: list[Latent] = []  # by a search that is not made twice
    is_kept = detector.searches and any(wanted.pictures or wanted.evidence for _, wanted in asked)

    def outcome(x: Tensor) -> tuple[Tensor, Tensor]:
        z = detector.mapping(x)
        found.extend([z] if is_kept else [])
        return detector.score(x, detector.reconstruct(z), z)

    def pictures(pixels: Pixels, first: int) -> Pictures:
        def of(rows: npt.NDArray[np.int64]) -> tuple[Pixels, Pixels | None]:
            places = [divmod(first + int(row), detector.batch_tiles) for row in rows if is_kept]
            return detector.pictures(pixels[rows], [row_of(found[batch], row) for batch, row in places])

        return of

    outcomes = (outcome(x) for x in detector.inputs(_joined_pixels([pixels for pixels, _ in asked], detector)))
    firsts = _spans([len(pixels) for pixels, _ in asked])
    wants = [
        (len(pixels), wanted, pictures(pixels, first))
        for (pixels, wanted), (first, _) in zip(asked, firsts, strict=True)
    ]
    return _answers(detector, outcomes, wants)


def check_tiles(pixels: Pixels, detector: Detector) -> None:
    """Refuse what is not RGB tiles of at least the detector's side, before it is joined with others.

    Raises:
        ValueError: it is not.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        raise ValueError(f"expected RGB tiles [N, h, w, 3] of bytes, found {pixels.dtype} {pixels.shape}")
    centre(pixels, detector.input_px)


def n_tiles(z: Latents) -> int:
    """Tiles whose latents, or pixels, these are."""
    return n_tiles(z[0]) if isinstance(z, tuple) else len(z)


def n_bytes(z: Latents) -> int:
    """Bytes of latents, or of pixels."""
    return sum(n_bytes(part) for part in z) if isinstance(z, tuple) else z.nbytes


def best_rows(score: npt.NDArray[np.float64], wanted: Wanted) -> npt.NDArray[np.int64]:
    """Numbers of the tiles that are evidence, best first: as a screening chooses them."""
    best = np.argsort(-score)[: wanted.evidence]
    return np.asarray(best[np.isfinite(score[best]) & (score[best] > wanted.floor)], np.int64)


def _answers(
    detector: Detector, outcomes: Iterable[tuple[Tensor, Tensor]], asked: Sequence[tuple[int, Wanted, Pictures]]
) -> list[Scores]:
    """Scores and maps of batches, as they come -> the answer to each request, by its number of tiles."""
    scores: list[Tensor] = []
    cells: list[Tensor] = []
    residuals: list[Tensor] = []
    any_maps = any(wanted.maps for _, wanted, _ in asked)
    for batch_score, residual in outcomes:
        scores.append(batch_score)
        cells.extend([pooled(residual)] if detector.has_cells else [])
        residuals.extend([residual] if any_maps else [])
    score = torch.cat(scores).cpu().double().numpy()
    cell = torch.cat(cells).cpu().numpy() if cells else None
    maps = _joined(residuals) if residuals else None
    answers, start = [], 0
    for n, wanted, pictures in asked:
        span = slice(start, start + n)
        start += n
        answers.append(
            Scores(
                score[span],
                None if cell is None else cell[span],
                maps[span] if maps is not None and wanted.maps else None,
                _shown(score[span], wanted, pictures),
            )
        )
    return answers


def _shown(score: npt.NDArray[np.float64], wanted: Wanted, pictures: Pictures) -> TilePictures | None:
    if not wanted.pictures and not wanted.evidence:
        return None
    rows = np.arange(len(score)) if wanted.pictures else best_rows(score, wanted)
    return TilePictures(rows, *pictures(rows))


def _joined_pixels(pixels: Sequence[Pixels], detector: Detector) -> Pixels:
    """All tiles in one array: of several requests the centre that the detector looks at, as they are copied anyway."""
    if len(pixels) == 1:
        return pixels[0]
    return np.concatenate([centre(tiles, detector.input_px) for tiles in pixels])


def _spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(accumulate(lengths))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _stacked(z: Sequence[Latents]) -> Latents:
    """The latents of several requests as those of one."""
    if len(z) == 1:
        return z[0]
    arrays = [latents for latents in z if not isinstance(latents, tuple)]
    return np.concatenate(arrays) if arrays else tuple(_stacked(column) for column in zip(*z, strict=True))


def _rows(z: Latents, start: int, end: int) -> Latents:
    if isinstance(z, tuple):
        return tuple(_rows(part, start, end) for part in z)
    return z[start:end]


def _latent_batches(z: Latents, detector: Detector) -> Iterator[Latent]:
    """Latents in batches, each of the kind that the detector's stage `map` gave: a tensor or a tuple of latents."""
    if isinstance(z, tuple):
        return zip(*(_latent_batches(part, detector) for part in z), strict=True)
    return _batches(z, detector)


def _batches(array: npt.NDArray[Any], detector: Detector) -> Iterator[Tensor]:
    """An array in the batches in which `Detector` works, so that neither memory nor rounding differs from batch."""
    step = detector.batch_tiles
    for start in range(0, len(array), step):
        yield torch.tensor(array[start : start + step], device=detector.device)


def _joined_latents(batches: Sequence[Latent]) -> Latents:
    tensors = [batch for batch in batches if isinstance(batch, Tensor)]
    if tensors:
        return _joined(tensors)
    return tuple(_joined_latents(column) for column in zip(*batches, strict=True))


def _joined(batches: Sequence[Tensor]) -> npt.NDArray[Any]:
    """Batches as one array, in float32; what is no floating-point number (indices among latents) stays as it is."""
    joined = torch.cat(list(batches))
    return (joined.float() if joined.is_floating_point() else joined).cpu().numpy()
