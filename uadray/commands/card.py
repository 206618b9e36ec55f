"""`uadray card`: what a bundle is, for people, told from what it says of itself and from what was measured."""

from typing import Any

from uadray.detectors.bundle import Bundle, read_bundle
from uadray.errors import InputError
from uadray.generators.bundle import GeneratorBundle, read_generator
from uadray.networks.bundle_description import kind_of
from uadray.ready.entries import entry_of
from uadray.reports.card import card_markdown, card_page
from uadray.reports.card_sections import generator_sections_of, sections_of
from uadray.screening.bundles import read_calibration
from uadray.storage import objects

FORMATS = {".md": card_markdown, ".html": card_page}


def run(bundle_uri: str, *, out: str | None) -> tuple[dict[str, Any], str]:
    """The card of a bundle.

    Args:
        bundle_uri: of the bundle.
        out: file or s3:// URI, `.md` or `.html`; None writes none.

    Returns:
        The command's answer, and the card as Markdown.

    Raises:
        InputError: no bundle there, or `out` is neither Markdown nor HTML.
    """
    make = next((make for suffix, make in FORMATS.items() if out and out.lower().endswith(suffix)), None)
    if out is not None and make is None:
        raise InputError(f"--out {out}: a card is a file .md or .html")
    bundle: Bundle | GeneratorBundle
    if kind_of(bundle_uri) == "generator":
        bundle, calibration = read_generator(bundle_uri), None
        sections = generator_sections_of(bundle)
    else:
        bundle = read_bundle(bundle_uri)
        calibration = read_calibration(bundle_uri, bundle) if objects.exists(_calibration(bundle_uri)) else None
        sections = sections_of(bundle, calibration, entry_of(bundle))
    title = f"Card: {bundle.name}"
    if out is not None and make is not None:
        objects.write_bytes(out, make(title, sections).encode(), content_type=_content_type(out))
    answer = {"bundle": bundle.id, "name": bundle.name, "is_calibrated": calibration is not None, "card": out}
    return answer, card_markdown(title, sections)


def _calibration(bundle_uri: str) -> str:
    return objects.join(bundle_uri, "calibration.json")


def _content_type(out: str) -> str:
    return "text/html" if out.lower().endswith(".html") else "text/markdown"
