"""Sizes of pyramid levels -> the factors by which a level is smaller, along x and along y."""

Size = tuple[int, int]
"""Width and height in pixels."""


def reduction(whole: Size, part: Size) -> int | None:
    """The whole number that both sides of `whole` were divided by, and rounded up or down, to give `part`; else None.

    >>> reduction((46000, 32914), (11500, 8228)), reduction((16000, 303), (4000, 76)), reduction((900, 600), (600, 400))
    (4, 4, None)
    """
    longer = whole.index(max(whole))
    n = round(whole[longer] / max(1, part[longer]))
    fits = n >= 1 and all(abs(short - long / n) < 1 for long, short in zip(whole, part, strict=True))
    return n if fits else None


def factors(whole: Size, part: Size) -> tuple[float, float]:
    """Pixels of `whole` for one of `part`, along x and along y.

    Scanners shrink by a whole number, and sides of levels are rounded. So the whole number is taken where one fits:
    303 px at a quarter are 75 px, and dividing the sides would give 4.04.
    """
    n = reduction(whole, part)
    return (whole[0] / part[0], whole[1] / part[1]) if n is None else (float(n), float(n))
