"""The part of an evaluation's page on slides known to be normal: does the stated false-alarm rate hold for them?"""

from collections.abc import Mapping
from typing import Any

from uadray.reports.evaluation_parts import Section, Table, between, counted, figure, of, share
from uadray.reports.plots import GREY, Axis, Line, Mark, Plot

_VERDICTS = {"holds": "holds", "broken": "broken", "too few": "too few to tell"}


def validity_section(given: Mapping[str, Any]) -> Section:
    """What `uadray.evaluation.validity_report` says, as a section: each group in a row of a table, and the p-values."""
    groups, alpha = given["groups"], given["alpha"]
    rows = [_row(group) for group in groups]
    left_out = "; ".join(f"{n} {reason}" for reason, n in given["left_out"].items())
    texts = [
        f"Of {counted(given['n_slides'], 'normal slide')}, one of each patient counts in each group: "
        f"{counted(given['n_patients'], 'patient')} in all"
        + (f". Left out: {left_out}." if left_out else "."),
        "A group is called broken where more of its slides are called than chance allows, that in the calibration's "
        "own slides included, or where its p-values are too low as a whole. Chance calls anything on this page broken "
        "with a probability of 5 % at most.",
    ]  # fmt: skip
    table = Table(
        head=["", "called", "share", "95 % interval", "allowed by chance", "mean p-value", "the stated rate"],
        rows=rows, chosen=[place for place, group in enumerate(groups) if group["verdict"] == "broken"], texts=[6],
        caption=f"Promised: {share(alpha)} at most. The mean p-value of slides like the calibration's is about a half.",
    )  # fmt: skip
    return Section(
        name="validity", title="Whether the stated rate holds", texts=texts, plots=[_plot(given)], tables=[table]
    )


def _row(group: Mapping[str, Any]) -> list[str]:
    name = "all slides together" if group["kind"] == "all" else f"{group['kind']} {group['value']}"
    interval = between([group["rate_low"], group["rate_high"]], as_share=True)
    return [
        name,
        of(group["n_called"], group["n_slides"]),
        share(group["rate"]),
        interval,
        f"at most {group['at_most']}",
        figure(group["mean_p"]),
        _VERDICTS[group["verdict"]],
    ]


def _plot(given: Mapping[str, Any]) -> Plot:
    alpha, everything = given["alpha"], given["groups"][0]
    return Plot(
        name="validity-p", title="P-values of slides known to be normal",
        x=Axis(label="p-value", percent=False), y=Axis(label="share of slides with at most this p-value"),
        says=f"The largest distance from the diagonal is {figure(given['ks_distance'])}.",
        lines=[Line(name="normal slides", points=given["curve"], steps="level"),
               Line(name="as promised", points=((0.0, 0.0), (1.0, 1.0)), colour=GREY, dashed=True)],
        marks=[Mark(name=f"called at alpha {alpha:g}", x=alpha, y=everything["rate"])],
        note="A curve above the diagonal has too many small p-values: more false alarms than stated.",
    )  # fmt: skip
