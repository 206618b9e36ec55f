"""The formats by name, with what the command needs to know of each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

from uadray.errors import InputError
from uadray.exports.exported_slide import Coordinates, ExportedSlide, ExportOptions

Name = Literal["wsinfer-csv", "geojson", "qupath-project", "hdf5", "ome-tiff", "dzi", "dicom-pm", "dicom-seg"]

ALIASES = {"csv": "wsinfer-csv", "h5": "hdf5", "dicom": "dicom-pm"}
"""Other names of formats."""


Whole = Callable[[Iterable[Mapping[str, Any]], str], dict[str, bytes]]
"""What a format has of all slides together: decisions, and the folder -> files by their path in it."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: of `Name`.
        exported: a slide -> its file; or its files, by what follows the slide's id in their names.
        folder: of its files below that of the export; may be empty.
        suffix: of the only file of a slide.
        version: raised when the same slide is written in another way: files of older versions are made anew.
        coordinates: those that suit it.
        needs_threshold: it says which tiles are abnormal.
        whole: what is written when all slides are; None for most.
    """

    name: Name
    exported: Callable[[ExportedSlide, ExportOptions], bytes | dict[str, bytes]]
    folder: str = ""
    suffix: str = ""
    version: int = 1
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
        case "ome-tiff":
            from uadray.exports import ome_tiff

            return Format("ome-tiff", ome_tiff.exported)
        case "dzi":
            from uadray.exports import dzi

            return Format("dzi", dzi.exported)
        case "dicom-pm":
            from uadray.exports import dicom_parametric_map

            return Format("dicom-pm", dicom_parametric_map.exported, suffix=dicom_parametric_map.SUFFIX)
        case "dicom-seg":
            from uadray.exports import dicom_seg

            return Format("dicom-seg", dicom_seg.exported, suffix=dicom_seg.SUFFIX, needs_threshold=True)
    raise InputError(f"no format {name!r}; there are: {', '.join(names())}")


def names() -> tuple[str, ...]:
    """All formats."""
    return get_args(Name)


def _format(name: Name, module: ModuleType, **more: Any) -> Format:
    return Format(name, module.exported, module.FOLDER, module.SUFFIX, module.VERSION, **more)
