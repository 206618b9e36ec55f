"""Slide scores by hand, and what no slide score may depend on."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.decisions.aggregation import (
    METHOD,
    METHODS,
    TOP_FRACTION,
    WITH_TAIL,
    AggregationConfig,
    new_aggregation,
    reference_of,
    score_of,
    scored_squares,
    slide_score,
)  # fmt: skip
from uadray.decisions.tile_reference import CEILING_DEVIATIONS, TileReference, ceiling_of
from uadray.decisions.tile_tail import tile_tail_of
from uadray.errors import InputError
from uadray.schemas import TILE_SCORES
from uadray.tiles.spec import TileSpec

ON_THE_SCALE_OF_TILES = ("top", "smooth", "grow", "graph", "maximum", "quantile")
TAIL = tile_tail_of([np.random.default_rng(1).normal(size=2000)])
SQUARE_MM2 = (96 * 0.97 / 1000) ** 2
REFERENCE, HIGH = TileReference(ceiling=1.0, tail=TAIL), TileReference(ceiling=4.0)
SPEC = TileSpec(mpp=0.97, tile_px=96)


def _table(places: list[tuple[int, int]], scores: list[float | None]) -> pa.Table:
    """Tiles of 96 px at these columns and rows; without a score they are flagged."""
    n = len(places)
    columns = {
        "tile_id": [f"s/{x}_{y}" for x, y in places], "slide_id": ["s"] * n, "x_level0_px": [96 * x for x, _ in places],
        "y_level0_px": [96 * y for _, y in places], "width_level0_px": [96] * n, "height_level0_px": [96] * n,
        "tissue_fraction": [1.0] * n, "band": ["tissue"] * n, "score": scores, "mean_saturation": [0.1] * n,
        "mean_green": [0.1] * n, "flag": ["fold" if s is None else None for s in scores], "error": [None] * n,
    }  # fmt: skip
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in TILE_SCORES}, schema=TILE_SCORES)


def _picture(scores: np.ndarray) -> pa.Table:
    places = [(int(x), int(y)) for y, x in np.ndindex(scores.shape)]
    return _table(places, scores.ravel().tolist())


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.01, 10.0),  # one tile at least
        (0.1, 10.0),
        (0.11, 9.5),  # rounded up to two
        (0.3, 9.0),
        (1.0, 5.5),
    ],
)
def test_top_by_hand(fraction: float, expected: float) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 11.0))
    assert slide_score(pa.table({"score": scores}), AggregationConfig(top_fraction=fraction)) == expected


def test_neighbours_by_hand() -> None:
    """A lesion of four in 4 x 4 tiles, and one odd tile: the odd one wins alone, the lesion with neighbours."""
    lesion, odd = np.zeros((4, 4)), np.zeros((4, 4))
    lesion[:2, :2], odd[1, 1] = 3.0, 9.0
    of = {m: [slide_score(_picture(s), AggregationConfig(method=m, top_fraction=0.06), spec=SPEC, reference=HIGH)
              for s in (lesion, odd)] for m in ("top", "smooth", "grow")}  # fmt: skip
    assert of["top"] == [3.0, 9.0]
    smooth = [(4 * 3 + 5 * 0.75) / 9, (9 + 5 * 0.5625) / 9]  # beside the corner five tiles count as the mean
    assert of["smooth"] == pytest.approx(smooth)
    assert of["grow"] == pytest.approx([(smooth[0] + 3.0) / 2, ((4 + 5 * 0.25) / 9 + 4 / 4) / 2])


@pytest.mark.parametrize("method", ON_THE_SCALE_OF_TILES)
def test_one_tile(method: str) -> None:
    config = new_aggregation(method)
    assert slide_score(_table([(7, 3)], [3.5]), config, spec=SPEC) == 3.5


PLACES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40, unique=True)


@given(places=PLACES, seed=st.integers(0, 999), method=st.sampled_from(METHODS))
@settings(max_examples=60, deadline=None)
def test_neither_order_nor_flagged_tiles_count(places: list[tuple[int, int]], seed: int, method: str) -> None:
    rng = np.random.default_rng(seed)
    config, scores = new_aggregation(method), [float(s) for s in rng.normal(size=len(places))]
    score = slide_score(_table(places, list(scores)), config, spec=SPEC, reference=REFERENCE)
    order = rng.permutation(len(places))
    shuffled = _table([places[i] for i in order], [scores[i] for i in order])
    assert slide_score(shuffled, config, spec=SPEC, reference=REFERENCE) == pytest.approx(score, abs=1e-12)
    flagged = [place for place in np.ndindex(12, 12) if place not in places][: seed % 30]
    more = _table(flagged + places, [None] * len(flagged) + scores)
    assert slide_score(more, config, spec=SPEC, reference=REFERENCE) == pytest.approx(score, abs=1e-12)


@given(places=PLACES, value=st.floats(-1e6, 1e6), method=st.sampled_from(ON_THE_SCALE_OF_TILES))
@settings(max_examples=60, deadline=None)
def test_a_constant_slide_gives_the_constant(places: list[tuple[int, int]], value: float, method: str) -> None:
    table = _table(places, [value] * len(places))
    assert slide_score(table, new_aggregation(method), spec=SPEC) == pytest.approx(value, abs=1e-9)


def test_calibrations_of_older_versions_decide_as_before() -> None:
    """Bit for bit: what the version before `by_size` gave for these tiles, with its configurations."""
    rng = np.random.default_rng(7)
    places = [place for place in np.ndindex(15, 11) if rng.random() < 0.7]
    table = _table([(int(x), int(y)) for x, y in places], rng.standard_normal(len(places)).tolist())
    of = {"top": 0.3, "smooth": 0.1, "grow": 0.1}
    old = {method: {"method": method, "top_fraction": share, "min_tiles": 8, "min_coverage": 0.9}
           for method, share in of.items()}  # fmt: skip
    scores = [slide_score(table, AggregationConfig.model_validate(old[m]), spec=SPEC, reference=REFERENCE) for m in of]
    assert scores == [0.9800012859683886, 0.33798474667274797, 0.5685238269265516]


def test_single_squares_by_hand() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 11.0)).reshape(2, 5)
    of = {m: slide_score(_picture(scores), AggregationConfig(method=m, top_fraction=0.3), spec=SPEC)
          for m in ("maximum", "quantile")}  # fmt: skip
    assert of == {"maximum": 10.0, "quantile": 8.0}


def test_fraction_and_region_by_hand() -> None:
    """Of 2,000 normal squares 20 reach 2.0; three squares of twelve do, two of which touch."""
    reference = TileReference(tail=tile_tail_of([np.append(np.linspace(0, 1, 1980), np.linspace(2, 3, 20))]))
    picture = np.full((3, 4), 0.5)
    picture[0, 0], picture[1, 1], picture[2, 3] = 2.5, 2.9, 3.0
    fraction, region = (AggregationConfig(method=m, tail=0.01) for m in ("fraction", "region"))
    highest = 1 - (1 / 2000) / 2
    assert slide_score(_picture(picture), fraction, spec=SPEC, reference=reference) == pytest.approx((3 + highest) / 12)
    area = slide_score(_picture(picture), region, spec=SPEC, reference=reference) / SQUARE_MM2
    p = reference.shares_above(np.array([2.5, 2.9]))
    assert area == pytest.approx(2 + (1 - p / 0.01).mean())
    nothing = slide_score(_picture(np.full((3, 4), 0.5)), region, spec=SPEC, reference=reference)
    assert 0 < nothing < SQUARE_MM2


def test_what_lies_together_counts_more_where_neighbours_count() -> None:
    """Nine raised squares of 144, together or scattered: the same for single squares, not for regions and the graph."""
    together, scattered = np.zeros((12, 12)), np.zeros((12, 12))
    together[4:7, 4:7] = scattered[1::4, 1::4] = 3.0
    reference = TileReference(ceiling=4.0, tail=TAIL)
    for method in METHODS:
        config = new_aggregation(method, top_fraction=0.05)
        scores = [slide_score(_picture(each), config, spec=SPEC, reference=reference) for each in (together, scattered)]
        if method in ("smooth", "grow", "graph", "region"):
            assert scores[0] > scores[1]
        else:
            assert scores[0] == scores[1]


def test_a_reference_has_what_its_method_needs() -> None:
    slides = [scored_squares(_picture(np.random.default_rng(i).normal(size=(9, 9))), new_aggregation(), spec=SPEC)
              for i in range(6)]  # fmt: skip
    for method in METHODS:
        reference = reference_of(slides, new_aggregation(method))
        assert (reference.ceiling is not None) == (method == "grow")
        assert (reference.tail is not None) == (method in WITH_TAIL)
        assert reference.size_curve is not None
        assert np.isfinite([score_of(each, new_aggregation(method), reference=reference) for each in slides]).all()


def test_ceiling_by_hand() -> None:
    """Each slide counts the same: 3 tiles of 2 against one of 0 are a mean of 1 and a deviation of 1."""
    slides = [scored_squares(_table([(i, 0) for i in range(len(s))], s), AggregationConfig(method="grow"), spec=SPEC)
              for s in ([2.0] * 3, [0.0])]  # fmt: skip
    assert ceiling_of(slides) == 1 + CEILING_DEVIATIONS


def test_new_calibrations_and_old_ones() -> None:
    assert AggregationConfig(by_size=True) == new_aggregation("top")
    assert AggregationConfig.model_validate({"top_fraction": 0.3, "min_tiles": 8, "min_coverage": 0.9}).method == "top"
    assert (new_aggregation().method, new_aggregation().top_fraction) == (METHOD, TOP_FRACTION[METHOD])
    assert new_aggregation("smooth", top_fraction=0.2).top_fraction == 0.2


@pytest.mark.parametrize(("method", "share"), [("best", None), ("grow", 0.0), ("top", 1.5)])
def test_what_is_no_method_or_share_is_refused(method: str, share: float | None) -> None:
    with pytest.raises(InputError, match=r"a slide's score: (method|top_fraction)"):
        new_aggregation(method, top_fraction=share)
