"""`uadray bundles`: the ready detectors that come with uadray."""

from collections.abc import Iterator
from typing import Any

from uadray.ready.entries import Entry, entries, entry_named
from uadray.storage import objects

CARD = "card.html"


def listing(known: list[dict[str, Any]]) -> Iterator[str]:
    """Lines for people of what `facts` says."""
    if not known:
        yield "this installation has no ready bundle"
    for entry in known:
        tiles, megabytes = f"{entry['tile_px']} px at {entry['mpp']:g} um/px", entry["size_bytes"] / 1e6
        yield f"{entry['name']:18} {entry['title']}"
        yield f"{'':18} tiles of {tiles}, {megabytes:.1f} MB, {entry['licence']}"
        yield from (f"{'':18} {figure}" for figure in entry["figures"])


def facts() -> list[dict[str, Any]]:
    """Name, purpose, tiles, size, licence and figures of each ready detector."""
    return [_facts(entry) for entry in entries()]


def pull(name: str, *, out: str) -> dict[str, Any]:
    """Write a ready detector as a bundle, with its card.

    Returns:
        `bundle` (where it lies), `name`, `id`, `size_bytes`, `is_new`, and `next`, the command that makes it decide.

    Raises:
        InputError: there is no such detector, or another bundle lies there.
    """
    entry = entry_named(name)
    from uadray.commands import card  # torch, and what needs it
    from uadray.ready.assembly import write_ready

    is_new = write_ready(entry, out)
    if is_new:
        card.run(out, out=objects.join(out, CARD))
    return {
        "bundle": out, "name": name, "id": entry.bundle.id, "size_bytes": entry.measured.size_bytes, "is_new": is_new,
        "next": f"uadray calibrate {out} --slides NORMAL_SLIDES/",
    }  # fmt: skip


def pack(bundle_uri: str, *, name: str, figures: str | None) -> dict[str, Any]:
    """Make a ready detector of a trained bundle, in the source of uadray."""
    from uadray.ready import packing

    entry = packing.pack(bundle_uri, name=name, figures=packing.read_figures(figures) if figures else None)
    n_bytes = sum(path.stat().st_size for path in entry.folder.iterdir())
    return _facts(entry) | {"folder": str(entry.folder), "package_bytes": n_bytes}


def _facts(entry: Entry) -> dict[str, Any]:
    figures = entry.measured.figures.figures if entry.measured.figures else ()
    return {
        "name": entry.name, "title": entry.about.title, "mpp": entry.bundle.tiles.mpp,
        "tile_px": entry.bundle.tiles.tile_px, "size_bytes": entry.measured.size_bytes, "licence": entry.about.licence,
        "id": entry.bundle.id, "figures": [f"{f.what}, {f.data}: {f.text}" for f in figures],
    }  # fmt: skip
