"""What `bundle.json` says, whatever is in the bundle, before a network is built: its version, its kind, its identity.

Nothing here imports torch, so that whoever only asks which bundle it is need not wait for it.
"""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel

from uadray import __version__
from uadray.errors import InputError
from uadray.slides.identity import Seen
from uadray.storage import objects
from uadray.tiles.spec import TileSpec, as_kept

BUNDLE_VERSION = 1
"""Of the layout of `bundle.json`; another version is refused, never half-understood."""

MAX_DESCRIPTION_BYTES = 64 * 2**20
"""Of `bundle.json`, whose only long part is twenty bytes for each slide that was trained on."""

WEIGHTS, DESCRIPTION, CALIBRATION = "weights.safetensors", "bundle.json", "calibration.json"
GALLERY = "gallery.parquet"

BundleKind = Literal["detector", "generator", "classifier"]


def bundle_id(weights_sha256: str, architecture: BaseModel, tiles: TileSpec) -> str:
    """Twelve hex digits that change with the weights, the architecture or the tiles.

    Calibrations and screenings refer to it, so it must not change for bundles that are there already: a field that a
    configuration of an architecture gets later is None by default, and what is None does not count. For those of tiles
    see `TileSpec.json_for_ids`.
    """
    parts = weights_sha256 + architecture.model_dump_json(exclude_none=True) + tiles.json_for_ids()
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def kind_of(uri: str) -> str:
    """What `bundle.json` calls itself; a detector where it says nothing.

    Raises:
        InputError: no bundle there, or one of another version.
    """
    return str(_description(uri).get("kind", "detector"))


def read_description(uri: str, *, kind: BundleKind) -> dict[str, Any]:
    """What `bundle.json` says, its version and kind checked and nothing else. Without a `kind` it is a detector's.

    Raises:
        InputError: no bundle there, one of another version, of another kind, or one that says what no bundle may.
    """
    values = _description(uri)
    _check_kind(uri, values.get("kind", "detector"), kind)
    if isinstance(values.get("tiles"), dict) and "mask_dir" in values["tiles"]:
        raise InputError(
            f"bundle {uri}: {DESCRIPTION} names a folder of masks, tiles.mask_dir; masks are of one run (--mask-dir), "
            "a bundle that brings some would decide where to look: remove the field"
        )
    return {**values, "tiles": as_kept(values["tiles"])} if "tiles" in values else values


def _description(uri: str) -> dict[str, Any]:
    """The mapping in `bundle.json`, its version checked."""
    description_uri = objects.join(uri, DESCRIPTION)
    if not objects.exists(description_uri):
        raise InputError(
            f"{uri} is no bundle: it has no {DESCRIPTION}; `uadray train CONFIG --data D --out DIR` makes one"
        )
    try:
        values = json.loads(objects.read_bytes(description_uri, max_bytes=MAX_DESCRIPTION_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"bundle {uri}: {DESCRIPTION} is not JSON: {error}") from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != BUNDLE_VERSION:
        raise InputError(
            f"bundle {uri} has version {version}, uadray {__version__} reads version {BUNDLE_VERSION}; "
            "train it again, or use the uadray that wrote it"
        )
    return dict(values)


def seen_of(training_data: dict[str, Any]) -> Seen:
    """The slides that a description says were trained on, by the members of a combination too.

    None are known of a tile set.
    """
    members = training_data.get("members")
    others = [_marks_of(each) for each in (members if isinstance(members, list) else ()) if isinstance(each, dict)]
    own = _marks_of(training_data)
    return Seen(own.salt, own.marks, tuple(other for other in others if other.marks))


def _marks_of(training_data: dict[str, Any]) -> Seen:
    salt, slides = (training_data.get(name) for name in ("salt", "slides"))
    marks = frozenset(map(str, slides)) if isinstance(slides, list) else frozenset[str]()
    return Seen(salt if isinstance(salt, str) else "", marks)


def _check_kind(uri: str, kind: object, expected: BundleKind) -> None:
    if kind == expected:
        return
    match kind, expected:
        case "generator", "detector":
            hint = f"train a detector with it (`generator: {uri}` in the configuration of f-AnoGAN), or `uadray sample`"
            raise InputError(f"bundle {uri} is a generator, which scores nothing; {hint}")
        case "classifier", "detector":
            hint = f"ask it about a generator's tiles (`uadray evaluate GENERATOR --data D --classifier {uri}`)"
            raise InputError(f"bundle {uri} is a classifier, which knows the classes it was taught alone; {hint}")
        case (("detector" | "generator" | "classifier"), _):
            raise InputError(f"bundle {uri} is a {kind}, not a {expected}")
        case _:
            raise InputError(f"bundle {uri}: {DESCRIPTION} has kind {str(kind)[:40]!r}, expected {expected!r}")
