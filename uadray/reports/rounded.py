"""How figures stand in the table of `bench detectors`."""

from uadray.reports.page import number, thousands


def share(value: float | None) -> str:
    """Three decimals, as AUROCs and shares are written; a dash for nothing.

    >>> share(0.88612), share(-0.004), share(None)
    ('0.886', '−0.004', '–')
    """
    return "\N{EN DASH}" if value is None else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def fall(value: float | None) -> str:
    """How far an AUROC fell, or rose.

    >>> fall(0.0063), fall(-0.0021), fall(None)
    ('falls by 0.006', 'rises by 0.002', '')
    """
    return "" if value is None else f"{'falls' if value >= 0 else 'rises'} by {share(abs(value))}"


def count(value: float | None) -> str:
    """A count, or the mean of several: one decimal where it is not whole.

    >>> count(8), count(7.666), count(None)
    ('8', '7.7', '–')
    """
    return "\N{EN DASH}" if value is None else f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def signed(value: float | None) -> str:
    """A difference.

    >>> signed(0.0314), signed(-0.2), signed(None)
    ('+0.031', '−0.200', '–')
    """
    return f"+{share(value)}" if value is not None and value >= 0 else share(value)


def whole(value: float | None) -> str:
    """A large count, or the mean of several.

    >>> whole(10240.0), whole(None)
    ('10\u202f240', '–')
    """
    return "\N{EN DASH}" if value is None else thousands(round(value))


def rate(value: float | None) -> str:
    """Three significant digits, and whole numbers from a hundred on.

    >>> rate(43204.9), rate(58.31), rate(None)
    ('43\u202f205', '58.3', '–')
    """
    return thousands(round(value)) if value is not None and value >= 100 else number(value)
