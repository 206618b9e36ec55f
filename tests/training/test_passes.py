"""The order of reading: every pass has every entry once, blocks are of one size, places are packed."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadray.tiles.sampling import draw
from uadray.training.passes import along_curve, endless_passes, mixing, pack_corners, unpack_corners


@given(
    entries=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    first=st.integers(0, 5),
    input_px=st.sampled_from([64, 256, 512]),
)
def test_every_pass_has_every_entry_once(entries: list[int], first: int, input_px: int) -> None:
    tiles = np.array(entries)
    plan = endless_passes(int(tiles.sum()), seed=1, input_px=input_px)
    for turn in (first, first + 1):
        blocks = [plan.block(turn * plan.blocks_per_pass + n, tiles) for n in range(plan.blocks_per_pass)]
        assert [block[:2] for block in blocks] == [(turn, n) for n in range(plan.blocks_per_pass)]
        assert sorted(np.concatenate([some for *_, some in blocks]).tolist()) == list(range(len(tiles)))


def test_a_block_is_about_four_megabytes() -> None:
    tiles = np.full(5000, 32)  # 160 slides, 1,000 tiles of each
    plan = endless_passes(160_000, seed=0, input_px=64)
    sizes = [tiles[plan.block(number, tiles)[2]].sum() * 3 * 64**2 for number in range(40)]
    assert 3.5 * 2**20 < min(sizes) <= max(sizes) < 4.5 * 2**20


@given(n=st.integers(0, 50), count=st.integers(0, 60), key=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_draws_follow_from_their_key(n: int, count: int, key: tuple[int, int]) -> None:
    found = draw(n, count, key)
    assert len(set(found.tolist())) == len(found) == min(n, count)
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, draw(n, count, key))


def test_a_run_along_the_curve_is_a_patch() -> None:
    y, x = (a.ravel() for a in np.mgrid[:16, :16])
    order = along_curve(x, y)
    assert sorted(order.tolist()) == list(range(256))
    for run in order.reshape(16, 16):
        assert np.ptp(x[run]) == np.ptp(y[run]) == 3


def test_mixing_by_hand() -> None:
    shares = np.full(4, 0.25)
    assert mixing([np.array([0, 0]), np.array([1, 1])], shares) == pytest.approx(1 / 1.75)
    assert mixing([np.array([0, 1]), np.array([2, 3]), np.array([1, 1]), np.array([0, 3])], shares) == 1.0


def test_corners_come_back_from_few_bytes() -> None:
    y, x = np.nonzero(cv2.circle(np.zeros((200, 220), np.uint8), (90, 110), 70, 1, -1))
    corners = np.rint(np.stack([x, y], axis=1) * 256.256).astype(np.int64)
    packed = pack_corners(corners)
    found, cells = unpack_corners(packed)
    assert len(corners) > 15_000
    assert len(packed) < 1500, "not 120,000"
    np.testing.assert_array_equal(found, corners)
    np.testing.assert_array_equal(cells, np.stack([x - x.min(), y - y.min()], axis=1))
    assert len(unpack_corners(pack_corners(corners[:0]))[0]) == 0
