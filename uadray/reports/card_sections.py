"""The parts of a bundle's card, told from what it says of itself, from its calibration and from what was measured."""

from collections.abc import Mapping
from typing import Any

from uadray.decisions.conformal import Calibration, threshold
from uadray.decisions.groups import stated_rates
from uadray.detectors.bundle import Bundle
from uadray.detectors.catalog import assumption_of, summary_of
from uadray.generators.bundle import GeneratorBundle
from uadray.generators.catalog import outline_of
from uadray.ready.entries import About, Entry, Measured
from uadray.reports.card import Section
from uadray.reports.card_figures import figure_rows
from uadray.reports.page import percent

GENERAL_FACTOR = "Scanner, stain and thickness of the section."

GENERAL_ADVICE = "Calibrate it on normal slides of your own site and scanner."

GENERAL_LIMITS = (
    "It sees one stain of one slide, and knows neither the patient nor the history.",
    "Tiles under pen, in folds, in air or out of focus are left out, and not all of these are noticed.",
    "A false-alarm rate holds for slides like those it was calibrated on, and for nothing else.",
)

_BUDGET = {"epoch": "last epoch, counted from 0", "step": "steps", "images_shown": "images shown"}
"""Of the last line of metrics, what a training has cost."""

GENERATOR_NOT_FOR = (
    "Not for diagnosis: nobody has had the tissue that it draws.",
    "Not for figures of a classifier or a detector in place of real tiles.",
)

GENERATOR_LIMITS = (
    "It draws what is frequent in the tiles that it was trained on; what is rare there may be missing.",
    "It may repeat single tiles, and with them what could be recognised in them; compare with their nearest ones.",
)


def sections_of(
    bundle: Bundle, calibration: Calibration | None, entry: Entry | None = None, *, about: About | None = None,
    evaluated: Mapping[str, Mapping[str, Any]] | None = None, n_gallery: int = 0,
) -> list[Section]:  # fmt: skip
    """The parts of a card.

    Args:
        bundle: what it says of itself.
        calibration: of it, if there is one.
        entry: the ready detector that it is, if it is one.
        about: what its owner says of it, if anything.
        evaluated: what `uadray evaluate` says of screenings with it, by the name of each.
        n_gallery: normal tiles of its training that are in it as pictures.
    """
    about, measured = about or (entry.about if entry else None), entry.measured if entry else None
    return [
        _details(bundle, about),
        _use(about),
        Section("What it assumes", _assumptions(bundle)),
        Section("What changes its scores", points=[GENERAL_FACTOR, *_more(about, "factors")]),
        _training(bundle, about, n_gallery),
        _figures(bundle, about, measured, evaluated or {}),
        _calibrated(calibration),
        Section("Limits", points=[*GENERAL_LIMITS, *_more(about, "limits")]),
        Section("Before you use it", points=_more(about, "advice") or [GENERAL_ADVICE]),
    ]


def generator_sections_of(bundle: GeneratorBundle) -> list[Section]:
    """The parts of the card of a generator."""
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in outline_of(bundle.generator).items()}
    rows = [
        ("generator", f"{bundle.generator.kind}: {summary_of(bundle.generator)}"),
        ("pictures", f"{bundle.generator.input_px} px, of tiles of {_cut(bundle)}"),
        *((f"parameters of the {name}", f"{count:,}") for name, count in counts.items()),
    ]
    purpose = "Pictures that look like the tissue that it was trained on, for research on generators and detectors."
    known = "What it was told while it was trained. `uadray evaluate BUNDLE --data REAL` compares it with real tiles."
    return [
        Section("What it is", rows=[*rows, *_origin(bundle)]),
        Section("What it is for", [purpose], GENERATOR_NOT_FOR),
        _training(bundle, None),
        Section("How well it does", [known], rows=_last_metrics(bundle)),
        Section("Limits", points=GENERATOR_LIMITS),
        Section("Before you use it", ["Look at what it draws: `uadray sample BUNDLE --grid grid.png`."]),
    ]


def _cut(bundle: Bundle | GeneratorBundle) -> str:
    tiles = bundle.tiles
    return f"{tiles.tile_px} px at {tiles.mpp:g} um/px ({tiles.tile_px * tiles.mpp:.0f} um)"


def _origin(bundle: Bundle | GeneratorBundle) -> list[tuple[str, str]]:
    return [
        ("bundle", f"{bundle.id}, weights {bundle.weights_sha256}"),
        ("made with", f"uadray {bundle.uadray_version}" + (f", commit {bundle.commit}" if bundle.commit else "")),
        *((f"licence of {name}", licence) for name, licence in bundle.licences.items()),
    ]


def _last_metrics(bundle: Bundle | GeneratorBundle) -> list[tuple[str, str]]:
    return [(f"training: {name}", f"{value:.4g}") for name, value in bundle.metrics.items()]


def _assumptions(bundle: Bundle) -> list[str]:
    """Of the detector, and of those that it is made of."""
    told = [assumption_of(each) for each in (bundle.detector, *getattr(bundle.detector, "members", ()))]
    return [text for text in told if text] or ["Nobody has written it down."]


def _details(bundle: Bundle, about: About | None) -> Section:
    tiles, detector = bundle.tiles, bundle.detector
    rows = [
        ("detector", f"{detector.kind}: {summary_of(detector)}"),
        ("tiles", f"{_cut(bundle)}, at least {tiles.min_tissue:.0%} tissue"),
        ("stain", "normalised" if tiles.stain else "as it is"),
        *_origin(bundle),
        *([("licence of what was fitted", about.licence)] if about else []),
    ]
    return Section("What it is", [about.title] if about else [], rows=rows)


def _use(about: About | None) -> Section:
    if about is None:
        text = "Ranking slides of the tissue it was trained on by how unlike normal tissue they look, in research."
        return Section("What it is for", [text], ["Not for diagnosis, and not for tissue that it was not trained on."])
    return Section("What it is for", [about.intended_use], about.not_for)


def _training(bundle: Bundle | GeneratorBundle, about: About | None, n_gallery: int = 0) -> Section:
    names = {"label": "label", "n_tiles": "tiles", "n_slides": "slides", "fingerprint": "fingerprint"}
    given = bundle.training_data
    rows = [(shown, str(given[name])[:80]) for name, shown in names.items() if isinstance(given.get(name), str | int)]
    rows += [(shown, f"{bundle.metrics[name]:,.0f}") for name, shown in _BUDGET.items() if name in bundle.metrics]
    if n_gallery:
        rows.append(("pictures of it in the bundle", f"{n_gallery:,} tiles, shown beside abnormal ones (`gallery`)"))
    lines = [about.training_data] if about else [] if rows else ["Normal tissue; it does not say more."]
    return Section("What it was trained on", lines, rows=rows)


def _figures(
    bundle: Bundle, about: About | None, measured: Measured | None, evaluated: Mapping[str, Mapping[str, Any]]
) -> Section:
    title, last = "How well it does", _last_metrics(bundle)
    rows = [(f"{what}, {name}", value) for name, each in evaluated.items() for what, value in figure_rows(each)]
    lines = ["What `uadray evaluate` says of screenings with it."] if rows else []
    if measured is None or measured.figures is None:
        text = "Nothing is known. Screen slides with labels of your own, then `uadray evaluate` tells."
        told = [about.evaluation_data] if about and rows else []
        return Section(title, told + (lines or [text]), rows=rows or last)
    told = [about.evaluation_data] if about else []
    lines = [*told, f"Training: {measured.figures.budget}", f"Again: {measured.figures.command}", *lines]
    return Section(title, lines, rows=[*((f"{f.what}, {f.data}", f.text) for f in measured.figures.figures), *rows])


def _calibrated(calibration: Calibration | None) -> Section:
    title = "Calibration"
    if calibration is None:
        text = "None: it scores, and cannot decide. `uadray calibrate BUNDLE --slides NORMAL` makes it decide."
        return Section(title, [text])
    stated = stated_rates(calibration)
    rows = [
        ("calibration", calibration.id),
        ("normal patients", str(len(calibration.scores))),
        ("stated false-alarm rate", f"{calibration.alpha:g}"),
        ("where this calibration's lies", _rate_words(stated)),
        ("threshold", f"{threshold(calibration):.6g}"),
        *(
            (f"of {name}", f"{g['slides']} normal slides, {_rate_words(g)}")
            for name, g in stated.get("groups", {}).items()
        ),
        *((f"slide score: {name}", str(value)) for name, value in calibration.aggregation.model_dump().items()),
    ]
    return Section(title, rows=rows)


def _rate_words(rate: Mapping[str, Any]) -> str:
    """Where the false-alarm rate lies, in words."""
    return f"{percent(rate['false_alarm_low'])} to {percent(rate['false_alarm_high'])} (95 %)"


def _more(about: About | None, name: str) -> list[str]:
    return [] if about is None else list(getattr(about, name))
