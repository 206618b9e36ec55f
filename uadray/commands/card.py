"""`uadray card`: what a bundle is, for people, told from what it says of itself and from what was measured."""

import json
from collections.abc import Sequence
from typing import Any

from uadray.config import parse_config
from uadray.detectors.bundle import Bundle, read_bundle
from uadray.detectors.gallery import load_gallery
from uadray.errors import InputError
from uadray.generators.bundle import GeneratorBundle, read_generator
from uadray.networks.bundle_description import kind_of
from uadray.ready.entries import ABOUT, About, entry_of
from uadray.reports.card import card_markdown, card_page
from uadray.reports.card_sections import generator_sections_of, sections_of
from uadray.screening.bundles import read_calibration
from uadray.screening.run_record import read_run_record
from uadray.storage import objects

MAX_BYTES = 64 * 2**20
"""The most that is read of an evaluation: its curves are most of it."""

FORMATS = {".md": card_markdown, ".html": card_page}


def run(bundle_uri: str, *, out: str | None, screenings: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The card of a bundle.

    What its owner says of it stands in `about.json` in the bundle's folder, with the fields of `ready.entries.About`.

    Args:
        bundle_uri: of the bundle.
        out: file or s3:// URI, `.md` or `.html`; None writes none.
        screenings: output folders of screenings with this bundle, which were evaluated: their figures are shown.

    Returns:
        The command's answer, and the card as Markdown.

    Raises:
        InputError: no bundle there, `out` is neither Markdown nor HTML, or a screening is another bundle's or was not
            evaluated.
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
        normals = load_gallery(bundle_uri, bundle)
        sections = sections_of(
            bundle, calibration, entry_of(bundle), about=_about(bundle_uri),
            n_gallery=len(normals.jpegs) if normals else 0,
            evaluated={objects.name(each): _evaluated(each, bundle) for each in screenings},
        )  # fmt: skip
    title = f"Card: {bundle.name}"
    if out is not None and make is not None:
        objects.write_bytes(out, make(title, sections).encode(), content_type=_content_type(out))
    answer = {"bundle": bundle.id, "name": bundle.name, "is_calibrated": calibration is not None, "card": out}
    return answer, card_markdown(title, sections)


def _about(bundle_uri: str) -> About | None:
    uri = objects.join(bundle_uri, ABOUT)
    if not objects.exists(uri):
        return None
    return parse_config(About, _json(uri), source=uri)


def _evaluated(out: str, bundle: Bundle) -> dict[str, Any]:
    """What was found when a screening with this bundle was evaluated."""
    uri = objects.join(out, "evaluation.json")
    if not objects.exists(uri):
        raise InputError(f"{out}: was not evaluated; run `uadray evaluate {out} --labels MANIFEST`")
    ids = [each.id for each in read_run_record(out).bundles]
    if ids != [bundle.id]:
        raise InputError(f"{out} was screened with bundle {', '.join(ids)}; this is {bundle.id}")
    return _json(uri)


def _json(uri: str) -> dict[str, Any]:
    try:
        values = json.loads(objects.read_bytes(uri, max_bytes=MAX_BYTES))
    except ValueError as error:
        raise InputError(f"{uri}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{uri}: expected a JSON object")
    return values


def _calibration(bundle_uri: str) -> str:
    return objects.join(bundle_uri, "calibration.json")


def _content_type(out: str) -> str:
    return "text/html" if out.lower().endswith(".html") else "text/markdown"
