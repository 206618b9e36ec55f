"""The part of the page of `bench detectors` on mappings over generators: what they say, a table, and a plot."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from uadray.reports.curves import COLOURS, nice_ticks
from uadray.reports.page import number, template
from uadray.reports.rounded import count, rate, share, signed, whole

WIDTH_PX, HEIGHT_PX = 640, 400
"""Of the field of the plot."""

LETTER_PX, LINE_PX, MARK_PX = 6.1, 12.0, 4.5
"""Of the labels beside the points: width of a letter at 11 px, height of a line, radius of a point."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, px."""


def mappings_section(answer: Mapping[str, Any]) -> Markup:
    """What stands on the page of `bench detectors`, with its style; "" where no mapping has pictures.

    Args:
        answer: what `uadray.bench.detectors` writes as `detectors.json`.
    """
    said = answer.get("mappings")
    if not said:
        return Markup("")
    rows = [row for row in answer["rows"] if row["group"] == "mapping" and figure(row, "pictures.normal.lpips")]
    rows = sorted(rows, key=lambda row: float(figure(row, "pictures.normal.lpips")))
    shown = template("mappings.html").render(
        rows=rows,
        sentences=sentences(said, len(rows)),
        pairs=[*said["encoder_against_search"], *said["hybrid_against_projection"]],
        plot=plot(rows),
        width=WIDTH_PX,
        height=HEIGHT_PX,
        mark=MARK_PX,
        figure=figure,
        share=share,
        count=count,
        rate=rate,
        whole=whole,
    )
    return Markup(shown)  # noqa: S704 - a template of ours, which escapes


def figure(row: Mapping[str, Any], path: str) -> Any:
    """A figure of a row, mean of its seeds, by its path; None where there is none."""
    value: Any = row.get("mean")
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def sentences(said: Mapping[str, Any], n: int) -> list[str]:
    """What the rows say together, in words.

    Args:
        said: see `uadray.bench.detector_comparison.compared`.
        n: rows.
    """
    best, detects = said["best_reconstruction"], said["best_detection"]
    text = [
        f"Best reconstruction of normals: {best['row']}, LPIPS {share(best['lpips_normal'])}, at an AUROC of "
        f"{share(best['auroc'])}.",
        _ranked("Generators", said["generators"], "mappings"),
        _ranked("Mappings", said["mappings"], "generators"),
        f"Best detection: {detects['row']}, AUROC {share(detects['auroc'])}{_interval(detects['auroc_ci95'])}, on "
        f"tiles with tissue {share(detects['auroc_with_tissue'])}; LPIPS on normals {share(detects['lpips_normal'])}.",
        _correlated("Whether better reconstruction detects better", said["lpips_against_auroc"], n),
        _correlated("On tiles with tissue", said["lpips_against_auroc_with_tissue"], n),
    ]
    if ratio := said["lpips_ratio"]:
        text.append(
            f"LPIPS of tumour tiles over that of normal ones: median {number(ratio['median'])} "
            f"({number(ratio['least'])} to {number(ratio['most'])}); above 1 tumour is reconstructed worse."
        )
    text.append(_quicker("An encoder maps", said["encoder_against_search"], "AnoGAN's search with the most steps"))
    text.append(_quicker("The hybrid maps", said["hybrid_against_projection"], "the longest projection"))
    return [line for line in text if line]


def _ranked(what: str, found: Sequence[Mapping[str, Any]], common: str) -> str:
    """Generators or mappings by their mean LPIPS."""
    if len(found) < 2 or found[0]["lpips_normal"] is None:
        return ""
    means = ", ".join(f"{one['name']} {share(one['lpips_normal'])}" for one in found)
    n = found[0]["n"]
    return f"{what} by mean LPIPS on normals over the {n} {common} that all have: {means}."


def _correlated(what: str, found: Mapping[str, Any] | None, n: int) -> str:
    if found is None:
        return f"{what}: {n} rows are too few to say."
    low, high = found["ci95"] or (found["rho"], found["rho"])
    says = (
        "rows that reconstruct normals better detect better"
        if high < 0
        else "rows that reconstruct normals better detect worse"
        if low > 0
        else "no relation is shown"
    )
    return (
        f"{what}: {says}. Rank correlation of LPIPS on normals with AUROC {signed(found['rho'])}"
        f"{_interval(found['ci95'], signed)}, p = {number(found['p'], 2)}, {found['n']} rows, which share generators "
        "and tiles."
    )


def _quicker(what: str, pairs: Sequence[Mapping[str, Any]], slow: str) -> str:
    """How many times as fast, and at which LPIPS, on each generator that has both."""
    if not pairs:
        return ""
    times = ", ".join(f"{rate(pair['ratio'])} times as fast on {pair['generator']}" for pair in pairs)
    shares = ", ".join(number(pair["lpips_ratio"]) for pair in pairs)
    return f"{what}, against {slow} on the same generator, {times}; at {shares} times its LPIPS on normals."


def _interval(ends: Sequence[float] | None, write: Any = share) -> str:
    return f" ({write(ends[0])} to {write(ends[1])})" if ends else ""


def plot(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """LPIPS on normals (to the right) against AUROC (upwards): points with labels, ticks, and the generators' colours.

    Args:
        rows: with both figures, in the order of the table; a row's label is left out where there is no room for it.
    """
    at = [(float(figure(row, "pictures.normal.lpips")), float(figure(row, "tiles.auroc"))) for row in rows]
    x_ticks = nice_ticks(min(x for x, _ in at), max(x for x, _ in at))
    y_ticks = nice_ticks(min(0.5, *(y for _, y in at)), max(0.5, *(y for _, y in at)))
    names = list(dict.fromkeys(str(figure(row, "training.generator.name")) for row in rows))
    colours = {name: COLOURS[min(i, len(COLOURS) - 1)] for i, name in enumerate(sorted(names))}
    places = [(_along(x, x_ticks) * WIDTH_PX, (1 - _along(y, y_ticks)) * HEIGHT_PX) for x, y in at]
    labels = placed(places, [str(figure(row, "training.mapping.name")) for row in rows])
    points = [
        {"x": round(x, 1), "y": round(y, 1), "colour": colours[str(figure(row, "training.generator.name"))],
         "title": f"{row['label']}: LPIPS {share(lpips)}, AUROC {share(auroc)}", "label": label}
        for row, (x, y), (lpips, auroc), label in zip(rows, places, at, labels, strict=True)
    ]  # fmt: skip
    return {
        "points": points,
        "x_ticks": [(round(_along(x, x_ticks) * WIDTH_PX, 1), f"{x:g}") for x in x_ticks],
        "y_ticks": [(round((1 - _along(y, y_ticks)) * HEIGHT_PX, 1), f"{y:g}") for y in y_ticks],
        "chance": round((1 - _along(0.5, y_ticks)) * HEIGHT_PX, 1),
        "colours": colours,
    }


def _along(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])


def placed(points: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[dict[str, Any] | None]:
    """Where the label of each point stands: right of it, left, above or below, where it covers nothing; None nowhere.

    >>> [label and (label["x"], label["anchor"]) for label in placed([(10.0, 50.0), (10.0, 50.0)], ["one", "two"])]
    [(18.0, 'start'), (10.0, 'middle')]
    """
    taken: list[Box] = [(x - MARK_PX, y - MARK_PX, x + MARK_PX, y + MARK_PX) for x, y in points]
    found: list[dict[str, Any] | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        width = LETTER_PX * len(text)
        gap = MARK_PX + 3.5
        tries = (
            (x + gap, y + 4, "start", x + gap),
            (x - gap, y + 4, "end", x - gap - width),
            (x, y - gap, "middle", x - width / 2),
            (x, y + gap + 8, "middle", x - width / 2),
        )
        label = None
        for at_x, at_y, anchor, left in tries:
            box = (left, at_y - LINE_PX + 3, left + width, at_y + 2)
            if box[0] >= 0 and box[2] <= WIDTH_PX and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                label = {"x": round(at_x, 1), "y": round(at_y, 1), "anchor": anchor, "text": text}
                break
        found.append(label)
    return found


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
