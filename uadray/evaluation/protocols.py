"""Protocols: which slides and tiles a detector is judged on, and by what, as a YAML file (`configs/protocols`).

`uadray evaluate BUNDLE --protocol FILE --out OUT` runs one (`commands.protocol`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field, model_validator

from uadray.config import Config
from uadray.errors import InputError
from uadray.evaluation import camelyon
from uadray.evaluation.tile_detections import DetectionConfig
from uadray.slides.folder_index import index_folder
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.storage import objects
from uadray.tiles.spec import TileSpec

Metric = Literal[
    "auroc", "auroc_ci95", "average_precision", "sensitivity_at_95_specificity", "trivial", "slide_auroc",
    "false_alarms", "found", "alpha", "tile_auroc", "tiles", "froc", "aupro",
]  # fmt: skip
"""What `uadray evaluate` says, by name."""

OF_SLIDES: frozenset[Metric] = frozenset(
    {"slide_auroc", "false_alarms", "found", "alpha", "tile_auroc", "tiles", "froc", "aupro"}
)
"""Those that only slides have."""

MANIFESTS = (".csv", ".tsv", ".parquet", ".xlsx")
MAX_REFERENCE_BYTES = 16 * 2**20


class Slides(Config):
    """Which slides there are, and what is known of them.

    Places without a scheme are relative to the folder of data, see `commands.protocol`.

    Attributes:
        slides: manifest, folder or s3:// prefix.
        outlines: folder of outlines, named after slides (see `evaluation.outlines`); beside the slides unless given.
        reference: CSV of slides and their labels, see `camelyon.read_reference`; of a folder.
        labels: of a folder, label by pattern of slide ids; what the reference says goes first.
        splits: of a folder, split by pattern of slide ids.
        left_out: slides that are not used, and why.
    """

    slides: str
    outlines: str | None = None
    reference: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    splits: dict[str, str] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)

    @property
    def is_manifest(self) -> bool:
        """Whether the slides are listed in a file."""
        return self.slides.lower().endswith(MANIFESTS)


class TileProtocol(Config):
    """Which tiles of the slides are judged; each is of one class.

    Attributes:
        cut: how tiles are cut of normal slides, where they are tissue.
        normal_per_slide: random tiles of a normal slide at the most.
        anomalous_per_slide: random tiles of a slide with lesions at the most, all of them in its lesions.
        in_lesion: least share of such a tile that lies in a lesion.
        seed: of the random choice.
        quality: of JPEG.
    """

    cut: TileSpec
    normal_per_slide: int = Field(ge=1)
    anomalous_per_slide: int = Field(ge=1)
    in_lesion: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    quality: int = Field(default=95, ge=1, le=100)


class Protocol(Config):
    """What a detector is judged on.

    Attributes:
        name: of the protocol; letters, digits, hyphens and underscores.
        about: what it is, and where it differs from what was published.
        source: where it was published.
        data: the slides.
        split: of the slides that are judged; all unless given.
        tiles: which tiles are judged; None where whole slides are screened.
        detections: of slides, how tiles become the detections of the FROC.
        metrics: what is reported of all that `uadray evaluate` says.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    about: str
    source: str
    data: Slides
    split: str | None = None
    tiles: TileProtocol | None = None
    detections: DetectionConfig = Field(default_factory=DetectionConfig)
    metrics: tuple[Metric, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> "Protocol":
        if self.tiles is not None and (of_slides := sorted(OF_SLIDES & set(self.metrics))):
            raise ValueError(f"metrics {', '.join(of_slides)} are of whole slides; leave them or tiles out")
        if self.data.is_manifest and (self.data.labels or self.data.splits or self.data.reference):
            raise ValueError("data.labels, splits and reference go with a folder; a manifest has columns for them")
        if not self.data.is_manifest and self.split is not None and self.split not in self.data.splits.values():
            raise ValueError(f"split {self.split} is none of data.splits")
        return self


def slides_of(protocol: Protocol, data: str) -> list[SlideRow]:
    """All slides of a protocol, of all splits, with their labels.

    Args:
        protocol: which slides.
        data: folder that places without a scheme are relative to.

    Raises:
        InputError: slides or reference are not there, cannot be reached, or have no slide that is judged.
    """
    places = protocol.data
    uri = objects.resolve(places.slides, data)
    if places.is_manifest:
        rows = read_manifest(uri)
    else:
        reference = _reference(objects.resolve(places.reference, data)) if places.reference else {}
        rows = [_described(row, places, reference) for row in index_folder(uri)]
    rows = [row for row in rows if row.slide_id not in places.left_out]
    if not judged_of(protocol, rows):
        raise InputError(f"protocol {protocol.name}: {uri} has no slide with a label{_in_split(protocol.split)}")
    return rows


def judged_of(protocol: Protocol, rows: Sequence[SlideRow]) -> list[SlideRow]:
    """The slides that are judged: those of the split that have a label."""
    return [row for row in rows if row.label and (protocol.split is None or row.split == protocol.split)]


def reported(protocol: Protocol, figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a protocol reports, in its order; None for what cannot be said."""
    return {metric: figures.get(metric) for metric in protocol.metrics}


def _in_split(split: str | None) -> str:
    return f" in the split {split}" if split else ""


def _described(row: SlideRow, places: Slides, reference: Mapping[str, str]) -> SlideRow:
    """A slide of a folder with label and split."""
    label = reference.get(row.slide_id.casefold()) or _first(places.labels, row.slide_id)
    return replace(row, label=label, split=_first(places.splits, row.slide_id))


def _first(patterns: Mapping[str, str], slide_id: str) -> str | None:
    """What the first pattern that a slide's id matches stands for."""
    return next((value for pattern, value in patterns.items() if fnmatchcase(slide_id, pattern)), None)


def _reference(uri: str) -> dict[str, str]:
    try:
        return camelyon.read_reference(objects.read_bytes(uri, max_bytes=MAX_REFERENCE_BYTES))
    except ValueError as error:
        raise InputError(f"reference {uri}: {error}") from error
