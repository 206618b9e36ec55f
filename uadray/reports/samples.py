"""The page of a training's sample pictures: tiles, and what was made of them at each epoch."""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Literal

import jinja2

Shown = Literal["reconstructions", "generated", "tiles"]

WORDS: dict[Shown, str] = {
    "reconstructions": "Training tiles (upper rows) over their reconstructions (lower rows)",
    "generated": "Training tiles (upper rows) over generated ones (lower rows), of the same latents at every epoch",
    "tiles": "Training tiles; this detector makes no pictures of its own",
}
"""What the pictures show, in words."""


def samples_page(title: str, names: Sequence[str], shown: Shown) -> str:
    """The HTML page of the pictures `names` in the folder `samples/` beside it.

    Args:
        title: name of what is trained.
        names: of JPEG files, in the order to show them.
        shown: what the pictures show.
    """
    return _template().render(title=title, names=names, words=WORDS[shown])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (resources.files("uadray.reports") / "templates" / "samples.html").read_text(encoding="utf-8")
    return environment.from_string(text)
