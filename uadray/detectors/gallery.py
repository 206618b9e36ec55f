"""The gallery of a bundle: normal tiles of its training, to be shown beside tiles that are found abnormal.

`gallery.parquet` in the bundle's folder holds their pictures, the detector's score of each, and a descriptor by which
the nearest ones are found: the mean maps of two layers of EfficientNet-Lite0 (https://arxiv.org/abs/1905.11946), the
same for every detector, so that "looks like" does not rest on what the detector itself has learned. Pictures of tissue
leave the archive with it, so that a bundle has a gallery only where its owner has made one (`uadray gallery`). It has
no slide ids and no places. It opens the same from a folder or from s3://, and is untrusted input.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from uadray.detectors.description import BundleDescription
from uadray.detectors.features.frozen import resized
from uadray.detectors.pixels import Pixels, to_float
from uadray.errors import InputError
from uadray.networks.backbones import build_backbone
from uadray.networks.bundle_description import GALLERY
from uadray.storage import objects
from uadray.tiles.images import ImageError, size_px

MAX_TILES = 4096
MAX_BYTES = 256 * 2**20
MAX_JPEG_BYTES = 2**20

NEAREST = 2
"""Normal tiles that are shown beside a tile."""

LAYERS = ("block4", "block10")
WIDTH = 152
"""Numbers of a descriptor: the channels of these layers."""

SIDE_PX = 96
"""Tiles are described at this side: of 96 px and 0.97 um/px as they are."""

Descriptors = npt.NDArray[np.float32]

_SCHEMA = pa.schema(
    [("jpeg", pa.binary()), ("score", pa.float64()), ("descriptor", pa.list_(pa.float32()))]
)  # fmt: skip


class Describer:
    """Tiles -> descriptors."""

    def __init__(self) -> None:
        self._backbone = build_backbone("efficientnet_lite0", LAYERS)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Descriptors:
        """Descriptors [n, 152] of RGB tiles [n, side, side, 3], each by itself."""
        x = resized(to_float(torch.from_numpy(np.ascontiguousarray(pixels))), SIDE_PX)
        parts = [self._backbone(x[i : i + 16]) for i in range(0, len(x), 16)]
        rows = [torch.cat([each.mean((2, 3)) for each in maps], dim=1) for maps in parts]
        return np.asarray(torch.cat(rows).numpy(), np.float32)


class Gallery:
    """Normal tiles whose nearest to a tile can be asked for.

    Attributes:
        jpegs: their pictures.
        scores: [n], the detector's.
    """

    def __init__(self, jpegs: Sequence[bytes], scores: Sequence[float], descriptors: Descriptors) -> None:
        self.jpegs, self.scores = list(jpegs), list(scores)
        self._mean, self._deviation = descriptors.mean(0), descriptors.std(0) + 1e-6
        self._rows = self._standard(descriptors)
        self._describer: Describer | None = None

    def nearest(self, pixels: Pixels) -> list[list[dict[str, Any]]]:
        """Of each RGB tile [n, side, side, 3] the `NEAREST` normal ones: their `jpeg` and `score`, nearest first.

        By the cosine of descriptors that are standardised over the gallery.
        """
        self._describer = self._describer or Describer()
        likeness = self._standard(self._describer(pixels)) @ self._rows.T
        best = np.argsort(-likeness, axis=1, kind="stable")[:, :NEAREST]
        return [[{"jpeg": self.jpegs[i], "score": self.scores[i]} for i in row] for row in best.tolist()]

    def _standard(self, descriptors: Descriptors) -> Descriptors:
        """Over the gallery, and of length one."""
        rows = (descriptors - self._mean) / self._deviation
        return np.asarray(rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9), np.float32)


def write_gallery(
    bundle_uri: str, bundle: BundleDescription, jpegs: Sequence[bytes], scores: Sequence[float],
    descriptors: Descriptors,
) -> str:  # fmt: skip
    """Write the gallery of a bundle, in the place of an earlier one; returns its URI."""
    table = pa.table([list(jpegs), list(map(float, scores)), list(descriptors)], schema=_SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"bundle_id": bundle.id}), sink, compression="zstd")
    uri = objects.join(bundle_uri, GALLERY)
    objects.write_bytes(uri, sink.getvalue())
    return uri


def load_gallery(bundle_uri: str, bundle: BundleDescription) -> Gallery | None:
    """The gallery of a bundle; None where it has none.

    Raises:
        InputError: it is damaged, too large, or belongs to other weights.
    """
    uri = objects.join(bundle_uri, GALLERY)
    if not objects.exists(uri):
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(objects.read_bytes(uri, max_bytes=MAX_BYTES)))
        if not 1 <= file.metadata.num_rows <= MAX_TILES:
            raise InputError(f"{uri}: {file.metadata.num_rows} tiles; a gallery has 1 to {MAX_TILES}")
        table = file.read().cast(_SCHEMA)
        descriptors = np.stack([np.asarray(row, np.float32) for row in table["descriptor"].to_pylist()])
    except (pa.ArrowException, ValueError, TypeError, OSError, KeyError) as error:
        raise InputError(f"{uri}: not a gallery: {error}") from error
    if descriptors.ndim != 2 or descriptors.shape[1] != WIDTH:
        raise InputError(f"{uri}: descriptors of another length than {WIDTH}; make it again")
    owner = (file.schema_arrow.metadata or {}).get(b"bundle_id", b"").decode(errors="replace")
    if owner != bundle.id:
        raise InputError(f"{uri} belongs to bundle {owner}, this is {bundle.id}; make it again or remove it")
    jpegs, scores = table["jpeg"].to_pylist(), table["score"].to_pylist()
    if not (np.isfinite(descriptors).all() and np.isfinite(np.array(scores, np.float64)).all()):
        raise InputError(f"{uri}: has descriptors or scores that are no numbers; make it again")
    _check_pictures(jpegs, uri)
    return Gallery(jpegs, scores, descriptors)


def _check_pictures(jpegs: Sequence[bytes], uri: str) -> None:
    """Refuse what is no small JPEG: it would stand in the pages of every screening."""
    for jpeg in jpegs:
        if not jpeg or len(jpeg) > MAX_JPEG_BYTES:
            raise InputError(f"{uri}: a picture of {len(jpeg or b'')} bytes; at most {MAX_JPEG_BYTES} are allowed")
        try:
            width, height = size_px(jpeg, formats=("JPEG",))
        except ImageError as error:
            raise InputError(f"{uri}: a picture is no JPEG: {error}") from error
        if max(width, height) > 1024:
            raise InputError(f"{uri}: a picture of {width} x {height} px; a tile has 1024 at most")
