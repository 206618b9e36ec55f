"""Sizes of pyramid levels, and what they say of the scale along x and along y."""

Size = tuple[int, int]
"""Width and height in pixels."""


def reduction(whole: Size, part: Size) -> int | None:
    """The whole number by which both sides were divided and then rounded, up or down; None where there is none.

    >>> reduction((46000, 32914), (11500, 8228)), reduction((16000, 303), (4000, 76)), reduction((900, 600), (600, 400))
    (4, 4, None)
    """
    longer = whole.index(max(whole))
    n = round(whole[longer] / max(1, part[longer]))
    fits = n >= 1 and all(abs(own - side / n) < 1 for side, own in zip(whole, part, strict=True))
    return n if fits else None


def factors(whole: Size, part: Size) -> tuple[float, float]:
    """Pixels of `whole` for one of `part`, along x and along y.

    Scanners shrink by a whole number, and what is left over of a side makes less than a pixel of the level. Divided by
    the rounded sides, 303 px at a quarter (75) would be a scale of 4.04.
    """
    n = reduction(whole, part)
    return (whole[0] / part[0], whole[1] / part[1]) if n is None else (float(n), float(n))
