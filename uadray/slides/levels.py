"""Sizes of pyramid levels -> the factors by which a level is smaller, along x and along y."""

Size = tuple[int, int]
"""Width and height in pixels."""


def reduction(whole: Size, smaller: Size) -> int | None:
    """The whole number by which both sides of `whole` were divided, then rounded, to give `smaller`; else None.

    >>> reduction((46000, 32914), (11500, 8228)), reduction((16000, 303), (4000, 76)), reduction((900, 600), (600, 400))
    (4, 4, None)
    """
    longer = whole.index(max(whole))
    n = round(whole[longer] / max(1, smaller[longer]))
    fits = n >= 1 and all(abs(short - long / n) < 1 for long, short in zip(whole, smaller, strict=True))
    return n if fits else None


def factors(whole: Size, smaller: Size) -> tuple[float, float]:
    """Pixels of `whole` for one of `smaller`, along x and along y.

    Scanners shrink by a whole number, and sides of levels are rounded. So the whole number is taken where one fits:
    303 px at a quarter are 75 px, and dividing the sides would give 4.04.
    """
    n = reduction(whole, smaller)
    return (whole[0] / smaller[0], whole[1] / smaller[1]) if n is None else (float(n), float(n))
