"""The ready detectors of an installation: a folder each, beside this file.

    bundle.json          of the whole bundle, as the training wrote it
    fitted.safetensors   the tensors that are not the frozen backbone's
    about.json           for people: what it is for, what it is not for, written by hand
    measured.json        its size, and figures that were measured with these weights

The backbone is one of the pinned weights (`uadray.networks.weights`) and is put in when the bundle is pulled
(`uadray.ready.assembly`). Nothing here imports torch.
"""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from uadray.config import Config, ConfigT, parse_config
from uadray.detectors.description import BundleDescription
from uadray.errors import InputError

READY = Path(__file__).parent
"""Where the folders are."""

FITTED, ABOUT, MEASURED, BUNDLE = "fitted.safetensors", "about.json", "measured.json", "bundle.json"


class About(Config):
    """`about.json`, the part of a card that a person has to write (Mitchell et al. 2019, "Model Cards").

    Attributes:
        title: what it finds, in a few words.
        intended_use: what it is for, and for whom.
        not_for: what it must not be used for, a sentence each.
        training_data: what it was trained on, where that comes from, and its licence.
        evaluation_data: what the figures were measured on.
        factors: what changes its scores, a sentence each.
        limits: what is known to go wrong, a sentence each.
        advice: what to do before its decisions are looked at, a sentence each.
        licence: of what was fitted.
    """

    title: str
    intended_use: str
    not_for: tuple[str, ...]
    training_data: str
    evaluation_data: str
    factors: tuple[str, ...]
    limits: tuple[str, ...]
    advice: tuple[str, ...]
    licence: str


class Figure(Config):
    """One figure that was measured.

    Attributes:
        what: it is, as "AUROC of tiles".
        data: it was measured on.
        value: of it.
        low: end of its interval, where there is one.
        high: end of its interval.
        note: the kind of interval, counts.
    """

    what: str
    data: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def text(self) -> str:
        """Value, interval and note.

        >>> Figure(what="AUROC", data="d", value=0.5, low=0.4, high=0.61, note="95 %").text
        '0.5 (0.4 to 0.61; 95 %)'
        """
        interval = "" if self.low is None or self.high is None else f"{self.low:g} to {self.high:g}"
        behind = "; ".join(part for part in (interval, self.note) if part)
        return f"{self.value:g}" + (f" ({behind})" if behind else "")


class Figures(Config):
    """Figures, and what they cost.

    Attributes:
        budget: of the training: tiles, steps, minutes, on what machine.
        command: that measures them again.
        figures: in the order to show them.
    """

    budget: str
    command: str
    figures: tuple[Figure, ...] = Field(max_length=100)


class Measured(Config):
    """`measured.json`.

    Attributes:
        size_bytes: of the weights of the whole bundle.
        figures: measured with these weights; None where nobody has measured any.
    """

    size_bytes: int
    figures: Figures | None = None


@dataclass(frozen=True)
class Entry:
    """A ready detector.

    Attributes:
        name: what `uadray bundles pull` calls it.
        folder: its files.
        bundle: what its `bundle.json` says.
        about: for people.
        measured: with these weights.
    """

    name: str
    folder: Path
    bundle: BundleDescription
    about: About
    measured: Measured


def folder_name(name: str) -> str:
    """The folder of a detector.

    >>> folder_name("lymph-node-10x")
    'lymph_node_10x'
    """
    return name.replace("-", "_")


def entries(root: Path = READY) -> tuple[Entry, ...]:
    """All ready detectors, by name."""
    return tuple(_entry(path.parent) for path in sorted(root.glob(f"*/{BUNDLE}")))


def entry_named(name: str, root: Path = READY) -> Entry:
    """One ready detector.

    Raises:
        InputError: there is none of this name; the message gives the nearest.
    """
    known = {entry.name: entry for entry in entries(root)}
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? Known: {', '.join(known)}" if near else "this installation has none"
        raise InputError(f"no ready bundle called {name!r}; {hint}")
    return known[name]


def entry_of(bundle: BundleDescription, root: Path = READY) -> Entry | None:
    """The ready detector that a bundle is; None for any other bundle."""
    return next((entry for entry in entries(root) if entry.bundle.id == bundle.id), None)


def read_file(path: Path, model: type[ConfigT]) -> ConfigT:
    """A JSON file of a ready detector.

    Raises:
        InputError: it is not there, or does not say what it should.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    return parse_config(model, values, source=str(path))


def _entry(folder: Path) -> Entry:
    return Entry(
        folder.name.replace("_", "-"), folder, read_file(folder / BUNDLE, BundleDescription),
        read_file(folder / ABOUT, About), read_file(folder / MEASURED, Measured),
    )  # fmt: skip
