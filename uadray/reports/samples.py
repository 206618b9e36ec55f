"""The page of a training: its curves, and pictures of tiles and what was made of them at each epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from uadray.reports.curves import curve_svg, series_of
from uadray.reports.page import asset, csp_hash, number, template

Shown = Literal["reconstructions", "generated", "tiles"]

WORDS: dict[Shown, str] = {
    "reconstructions": "Training tiles (upper rows) over their reconstructions (lower rows)",
    "generated": "Training tiles (upper rows) over generated ones (lower rows), of the same latents at every epoch",
    "tiles": "Training tiles; this detector makes no pictures of its own",
}
"""What the pictures show, in words."""

DRAWN_WORDS = {
    "generated": "Drawn by the trained generator, none picked out",
    "interpolation": "Between latents: each row leads to where the next begins",
}
"""What the pictures of a trained generator show."""


def samples_page(
    title: str, names: Sequence[str], shown: Shown, *, lines: Sequence[Mapping[str, Any]] = (),
    drawn: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """The HTML page of a run, which points at pictures in the folder `samples/` beside it.

    Args:
        title: name of what is trained.
        names: of JPEG files, in the order to show them.
        shown: what the pictures show.
        lines: of metrics, one for each epoch.
        drawn: of `DRAWN_WORDS`, which there are of the trained generator -> their files.
    """
    style = asset("detectors.css")
    return template("samples.html").render(
        title=title,
        names=names,
        words=WORDS[shown],
        facts=facts_of(lines),
        curves=[curve_svg(each.name, [each]) for each in series_of(lines)],
        drawn=drawn or {},
        drawn_words=DRAWN_WORDS,
        epoch_of=epoch_of,
        style=Markup(style),  # noqa: S704 - our own
        style_hash=csp_hash(style),
    )


def epoch_of(name: str) -> str:
    """What the file of an epoch's picture is called on the page.

    >>> epoch_of("epoch_0012.jpg"), epoch_of("else.jpg")
    ('Epoch 12', 'else')
    """
    stem = name.removesuffix(".jpg")
    number_of = stem.removeprefix("epoch_")
    return f"Epoch {int(number_of)}" if number_of.isdecimal() else stem


def facts_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Epochs, steps, images shown, minutes of steps and images a second of a run; empty where it has no line.

    >>> facts_of([{"epoch": 0, "step": 5, "images_shown": 600, "seconds": 20.0}])
    {'epochs': 1, 'steps': 5, 'images': 600, 'minutes': '0.333', 'images_per_second': '30.0'}
    """
    if not lines:
        return {}
    last, seconds = lines[-1], sum(float(line.get("seconds", 0)) for line in lines)
    images = last.get("images_shown")
    return {
        "epochs": int(last["epoch"]) + 1,
        "steps": int(last["step"]),
        "images": images,
        "minutes": number(seconds / 60),
        "images_per_second": number(images / seconds if images and seconds else None),
    }
