"""The page that compares models trained side by side, from what their folders hold."""

from collections.abc import Sequence

from uadray.commands.run_log import DRAWN, SAMPLES, read_lines
from uadray.commands.run_log import PAGE as RUN_PAGE
from uadray.reports.comparison_page import Compared, comparison_page
from uadray.storage import objects
from uadray.training.config import TrainConfig
from uadray.training.subject import parameters

PAGE = "comparison.html"

MAX_PICTURE_BYTES = 4 * 2**20
"""A larger picture is left to the page of its model."""


def write_page(out: str, models: Sequence[tuple[str, TrainConfig, str, str]], *, title: str = "") -> None:
    """Write the page.

    Args:
        out: URI of the folder that gets it.
        models: name, configuration, folder within `out`, and why it has failed ("" where it has not).
        title: of the page; the folder's name unless given.
    """
    rows = [compared(name, config, folder, why) for name, config, folder, why in models]
    page = comparison_page(title or objects.name(out.rstrip("/")), rows)
    objects.write_bytes(objects.join(out, PAGE), page.encode(), content_type="text/html")


def compared(name: str, config: TrainConfig, folder: str, why: str) -> Compared:
    """One model of the page, from its folder."""
    subject = getattr(config, config.section)
    counts = parameters(config)
    pictures = _pictures(folder)
    return Compared(
        name=name,
        kind=subject.kind,
        input_px=config.input_px,
        parameters=counts,
        lines=read_lines(folder),
        why=why,
        pictures=pictures,
        page=f"{name}/{RUN_PAGE}" if objects.exists(objects.join(folder, RUN_PAGE)) else "",
    )


def _pictures(folder: str) -> dict[str, bytes]:
    """JPEGs by what they show: those of the trained generator, else the newest of its training."""
    uris = sorted(info.uri for info in objects.list_objects(objects.join(folder, SAMPLES), suffixes=(".jpg",)))
    by_name = {objects.name(uri): uri for uri in uris}
    chosen = {what: by_name[name] for what, name in DRAWN.items() if name in by_name}
    if "generated" not in chosen and (epochs := [n for n in by_name if n not in DRAWN.values()]):
        chosen = {"newest": by_name[epochs[-1]]} | chosen
    read = {what: objects.read_bytes(uri) for what, uri in chosen.items()}
    return {what: data for what, data in read.items() if len(data) <= MAX_PICTURE_BYTES}
