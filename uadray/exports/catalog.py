"""The formats by name, with what the command needs to know of each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

from uadray.errors import InputError
from uadray.exports.exported_slide import Coordinates, ExportedSlide, ExportOptions

Name = Literal["wsinfer-csv", "geojson", "qupath-project", "hdf5"]

ALIASES = {"csv": "wsinfer-csv", "h5": "hdf5"}
"""Other names of formats."""


Whole = Callable[[Iterable[Mapping[str, Any]], str], dict[str, bytes]]
"""What a format has of all slides together: decisions, and the folder -> files by their path in it."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: of `Name`.
        folder: of its files below that of the export; may be empty.
        suffix: of a slide's file.
        version: of the way it is written.
        exported: a slide -> its file, or its files.
        coordinates: those that suit it.
        needs_threshold: it says which tiles are abnormal.
        whole: what is written when all slides are; None for most.
    """

    name: str
    folder: str
    suffix: str
    version: int
    exported: Callable[[ExportedSlide, ExportOptions], bytes | dict[str, bytes]]
    coordinates: Coordinates = "level0"
    needs_threshold: bool = False
    whole: Whole | None = None


def format_of(name: str) -> Format:
    """The format of a name, or of one of its other names.

    Raises:
        InputError: there is none.
    """
    match ALIASES.get(name, name):
        case "wsinfer-csv":
            from uadray.exports import wsinfer_csv

            return _format("wsinfer-csv", wsinfer_csv)
        case "geojson":
            from uadray.exports import qupath_geojson

            return _format("geojson", qupath_geojson, coordinates="qupath", needs_threshold=True)
        case "qupath-project":
            from uadray.exports import qupath_project

            return _format(
                "qupath-project", qupath_project, coordinates="qupath", needs_threshold=True,
                whole=qupath_project.project_files,
            )  # fmt: skip
        case "hdf5":
            from uadray.exports import hdf5

            return _format("hdf5", hdf5)
    raise InputError(f"no format {name!r}; there are: {', '.join(names())}")


def names() -> tuple[str, ...]:
    """All formats."""
    return get_args(Name)


def _format(name: Name, module: ModuleType, **more: Any) -> Format:
    return Format(name, module.FOLDER, module.SUFFIX, module.VERSION, module.exported, **more)
