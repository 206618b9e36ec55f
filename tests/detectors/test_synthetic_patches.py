"""Synthetic anomalies are what the papers say: against loops over pixels, a direct solver, and OpenCV's cloning."""

import math

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
import torch
from networks_watch import smooth_pictures
from torch import Tensor

from uadray.detectors.pixels import to_pixels
from uadray.detectors.synthetic import blending, interpolation, pasting
from uadray.detectors.synthetic.patches import Patches, foreign, normal_of, other_tiles, weights, whole_between
from uadray.detectors.synthetic.poisson import cloned

pytestmark = pytest.mark.usefixtures("torch_alone")

SIDE = 32


@pytest.fixture
def x() -> Tensor:
    """Tiles with something at every scale, so that no shift goes unnoticed."""
    torch.manual_seed(0)
    tiles: Tensor = (0.7 * smooth_pictures(12, SIDE) + 0.3 * (2 * torch.rand(12, 3, SIDE, SIDE) - 1)).clamp(-1, 1)
    return tiles


def draws_of(count: int, n: int = 12, seed: int = 1) -> Tensor:
    return torch.rand(n, count, generator=torch.Generator().manual_seed(seed))


def upright(
    top: int,
    left: int,
    height: int,
    width: int,
    *,
    source: tuple[int, int] = (0, 0),
    dtype: torch.dtype = torch.float32,
) -> Patches:
    """One patch, by its first row and column, and those of where it is taken from."""
    middle = ((height - 1) / 2, (width - 1) / 2)
    values = (height, width, top + middle[0], left + middle[1], source[0] + middle[0], source[1] + middle[1])
    return Patches(*(torch.tensor([float(value)], dtype=dtype) for value in values))


@pytest.mark.parametrize("n", [2, 3, 7])
def test_a_patch_comes_from_another_tile(n: int) -> None:
    """From any other, and as often from each."""
    draws = (torch.arange(0.5, 1000) / 1000)[:, None].expand(-1, n)
    others = torch.stack([other_tiles(draw) for draw in draws])
    own = torch.arange(n)
    assert not (others == own).any()
    for tile in range(n):
        counts = others[:, tile].bincount(minlength=n)
        assert counts[tile] == 0
        assert counts[own != tile].min() >= 1000 // (n - 1)
    assert not (other_tiles(torch.full((n,), 1 - 2**-24)) == own).any()


def test_one_tile_alone_has_no_other() -> None:
    with pytest.raises(ValueError, match="another tile"):
        other_tiles(torch.rand(1))


def test_whole_numbers_reach_both_ends_and_no_further() -> None:
    drawn = whole_between(torch.cat([torch.arange(0.0, 1, 0.001), torch.tensor([1 - 2**-24])]), 3.0, 6.0)
    assert drawn.unique().tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("seed", range(4))
def test_interpolation_is_the_naive_one(x: Tensor, seed: int) -> None:
    """Both images pixel by pixel, and alpha where, and only where, they were mixed."""
    draws = draws_of(interpolation.DRAWS, seed=seed)
    made = interpolation.interpolated(x, draws)
    others = other_tiles(draws[:, 0])
    for tile in range(len(x)):
        first = int(0.1 * SIDE)
        row, column = (first + math.floor(float(draws[tile, i]) * (int(0.9 * SIDE) - first)) for i in (1, 2))
        half = round(0.05 * SIDE) + math.floor(float(draws[tile, 3]) * (round(0.2 * SIDE) - round(0.05 * SIDE)))
        alpha = 0.05 + 0.9 * float(draws[tile, 4])
        expected, label = x[tile].clone(), torch.zeros(SIDE, SIDE)
        for y in range(max(row - half, 0), min(row + half, SIDE)):
            for across in range(max(column - half, 0), min(column + half, SIDE)):
                theirs = x[int(others[tile]), :, y, across]
                expected[:, y, across] = (1 - alpha) * x[tile, :, y, across] + alpha * theirs
                label[y, across] = alpha
        torch.testing.assert_close(made.x[tile], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(made.label[tile, 0], label, rtol=0, atol=1e-6)


def test_what_two_tiles_have_in_common_is_not_foreign(x: Tensor) -> None:
    x[1:] = x[:1]
    assert not interpolation.interpolated(x, draws_of(interpolation.DRAWS)).label.any()


def test_a_border_fades_in() -> None:
    ramp = weights(upright(4, 6, 9, 9), SIDE, SIDE, border_px=2.0)[0, 0]
    assert ramp[8, 6:15].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])
    assert ramp[4:13, 10].tolist() == pytest.approx(ramp[8, 6:15].tolist())
    assert float(ramp.sum() - ramp[4:13, 6:15].sum()) == 0
    assert torch.equal(weights(upright(4, 6, 9, 9), SIDE, SIDE)[0, 0] > 0, ramp > 0)


def test_a_pasted_patch_is_the_other_tiles(x: Tensor) -> None:
    """By slices, upright and without jitter; from another place, and the tile is otherwise as it was."""
    draws = draws_of(pasting.DRAWS)
    draws[:, 0], draws[:, 9:] = 0.4, 0.5
    made, others = pasting.pasted(x, draws), other_tiles(draws[:, 1])
    for tile in range(len(x)):
        area = (0.02 + 0.13 * float(draws[tile, 2])) * SIDE**2
        share = float(draws[tile, 3])
        aspect = 0.3 + 1.4 * share if share < 0.5 else 1 + (2 * share - 1) * (1 / 0.3 - 1)
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        top, left, from_top, from_left = (
            math.floor(float(draws[tile, 5 + i]) * (SIDE - length + 1)) for i, length in enumerate((height, width) * 2)
        )
        expected, mask = x[tile].clone(), torch.zeros(SIDE, SIDE)
        piece = x[int(others[tile]), :, from_top : from_top + height, from_left : from_left + width]
        expected[:, top : top + height, left : left + width] = piece
        mask[top : top + height, left : left + width] = 1
        torch.testing.assert_close(made.x[tile], expected, rtol=0, atol=1e-4)
        assert torch.equal(made.label[tile, 0], mask)


def test_half_are_scars_which_are_thin_and_turned() -> None:
    n, side = 900, 256
    draws = draws_of(pasting.DRAWS, n)
    patches = pasting.patches_of(draws, side, side)
    kind = draws[:, 0]
    is_scar = kind >= 0.5
    area = (patches.height * patches.width)[~is_scar] / side**2
    assert area.min() == pytest.approx(0.02, abs=0.002)
    assert area.max() == pytest.approx(0.15, abs=0.002)
    assert patches.angle is not None
    assert (patches.angle[is_scar].abs() <= math.pi / 4).all()
    assert patches.angle[is_scar].std() > 0.3
    assert not patches.angle[~is_scar].any()
    assert patches.height[is_scar].unique().tolist() == list(range(10, 26))
    assert patches.width[is_scar].unique().tolist() == list(range(2, 17))
    few = Patches(**{name: value[is_scar][:40] for name, value in vars(patches).items() if value is not None})
    mask = weights(few, side, side)[:, 0]
    inside = few.height * few.width  # a turned corner may leave the tile
    assert (mask.sum((1, 2)) / inside).median() == pytest.approx(1, abs=0.05)
    assert (mask.sum((1, 2)) <= 1.2 * inside + 4).all()


def test_a_turned_patch_is_the_other_tile_turned() -> None:
    """By a right angle, about the middle: the whole tile."""
    x, middle = torch.rand(1, 3, SIDE, SIDE), torch.tensor([(SIDE - 1) / 2])
    whole = torch.tensor([float(SIDE)])
    for sign in (1, -1):
        patches = Patches(whole, whole, middle, middle, middle, middle, angle=torch.tensor([sign * math.pi / 2]))
        torch.testing.assert_close(foreign(x, patches), torch.rot90(x, sign, (2, 3)), rtol=0, atol=1e-4)


def test_a_magnified_patch_is_the_other_tile_resized() -> None:
    """A plane stays one, with half the slope; the middle of the source lies in the middle."""
    plane = torch.arange(float(SIDE)).expand(1, 3, SIDE, SIDE) / SIDE
    patches = Patches(*upright(8, 8, 16, 16, source=(4, 10)).__dict__.values())
    patches = Patches(**{**vars(patches), "scale": torch.tensor([2.0])})
    row = foreign(plane, patches)[0, 0, 10, 8:24] * SIDE
    torch.testing.assert_close(row, 17.5 + (torch.arange(16.0) - 7.5) / 2, rtol=0, atol=1e-4)


def test_jitter_is_brightness_contrast_saturation(x: Tensor) -> None:
    draws = draws_of(3)
    found = pasting.jittered(x, draws)
    for tile in range(3):
        bright, contrast, saturation = (0.9 + 0.2 * draws[tile]).tolist()
        light = np.clip((x[tile].numpy() + 1) / 2 * bright, 0, 1)
        mean = np.tensordot(pasting.GREYS, light, 1).mean()
        light = np.clip(mean + contrast * (light - mean), 0, 1)
        own = np.tensordot(pasting.GREYS, light, 1)
        expected = 2 * np.clip(own + saturation * (light - own), 0, 1) - 1
        np.testing.assert_allclose(found[tile].numpy(), expected, atol=1e-5)


def directly_cloned(x: np.ndarray, pieces: np.ndarray, box: tuple[int, int, int, int], *, mixed: bool) -> np.ndarray:
    """Eq. 7 of Pérez et al., pixel by pixel, by a sparse direct solver; one colour."""
    top, left, height, width = box
    system, right_side = scipy.sparse.lil_matrix((height * width,) * 2), np.zeros(height * width)
    for y in range(top, top + height):
        for across in range(left, left + width):
            p = (y - top) * width + across - left
            for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                q = (y + down, across + right)
                own, theirs = x[y, across] - x[q], pieces[y, across] - pieces[q]
                right_side[p] += own if mixed and abs(own) > abs(theirs) else theirs
                system[p, p] += 1
                if top <= q[0] < top + height and left <= q[1] < left + width:
                    system[p, (q[0] - top) * width + q[1] - left] -= 1
                else:
                    right_side[p] += x[q]
    made = x.copy()
    solution = scipy.sparse.linalg.spsolve(system.tocsr(), right_side)
    made[top : top + height, left : left + width] = solution.reshape(height, width)
    return made


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("box", [(1, 1, 30, 30), (5, 8, 3, 17), (20, 2, 1, 1)])
def test_cloning_is_the_direct_solution(x: Tensor, box: tuple[int, int, int, int], mixed: bool) -> None:
    made = cloned(x[:1].double(), x[1:2].double(), upright(*box, dtype=torch.float64), mixed=mixed)[0]
    for colour in range(3):
        own, theirs = (x[tile, colour].double().numpy() for tile in (0, 1))
        np.testing.assert_allclose(made[colour].numpy(), directly_cloned(own, theirs, box, mixed=mixed), atol=1e-6)


def test_cloning_satisfies_the_equation_in_every_tile_of_a_batch(x: Tensor) -> None:
    """Patches of several sizes at once: the Laplacian within is the other's, and the tile outside is untouched."""
    patches = blending.patches_of(draws_of(10), SIDE, SIDE, is_there=torch.arange(12) % 3 > 0)
    pieces = x.roll(1, 0)
    made, inside = cloned(x, pieces, patches, mixed=False), weights(patches, SIDE, SIDE) > 0
    assert inside[0].sum() == 0
    assert torch.equal(torch.where(inside, 0, made), torch.where(inside, 0, x))
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]).expand(3, 1, 3, 3)
    found, expected = (torch.nn.functional.conv2d(image, kernel, padding=1, groups=3) for image in (made, pieces))
    torch.testing.assert_close(torch.where(inside, found, 0), torch.where(inside, expected, 0), rtol=0, atol=2e-5)


def test_cloning_of_the_tile_itself_changes_nothing(x: Tensor) -> None:
    torch.testing.assert_close(cloned(x[:1], x[:1], upright(3, 3, 20, 20), mixed=False), x[:1], rtol=0, atol=1e-6)


def test_opencv_clones_the_same() -> None:
    """But for the border of its mask, from which it takes three pixels."""
    torch.manual_seed(2)
    x, pieces = smooth_pictures(2, 64).chunk(2)
    x, pieces = 0.5 * x, 0.5 * pieces
    mask = np.zeros((64, 64), np.uint8)
    mask[12:52, 16:48] = 255
    made = cloned(x, pieces, upright(15, 19, 34, 26), mixed=False)
    theirs = cv2.seamlessClone(to_pixels(pieces)[0], to_pixels(x)[0], mask, (32, 32), cv2.NORMAL_CLONE)
    difference = np.abs(to_pixels(made)[0].astype(int) - theirs.astype(int))
    change = np.abs(to_pixels(x)[0].astype(int) - theirs.astype(int))[15:49, 19:45]
    assert difference.mean() < 0.05 * change.mean()


def test_labels_of_blended_patches_are_the_papers(x: Tensor) -> None:
    """Medians and the logistic by scipy; 0 outside, and above the logistic's middle where colours changed much."""
    draws = draws_of(blending.DRAWS)
    made = blending.blended(x, draws)
    levels = 127.5 * (made.x - x).abs().mean(1).numpy()
    for tile, label in enumerate(made.label[:, 0].numpy()):
        changed = scipy.ndimage.median_filter((levels[tile] > 1).astype(float), 3, mode="mirror")
        middle = scipy.ndimage.median_filter(levels[tile] * changed, 3, mode="mirror")
        expected = changed / (1 + np.exp(-(middle - 7) / 3))
        np.testing.assert_allclose(label, np.where(label > 0, expected, 0), atol=1e-4)
        assert (label > 0).sum() >= 0.8 * ((changed > 0) & (levels[tile] > 1)).sum()
    assert made.label.max() > 0.9
    assert not made.label[levels[:, None] == 0].any()
    assert made.x.abs().max() <= 1


def test_patches_are_as_large_and_as_many_as_the_papers(x: Tensor) -> None:
    n, side = 4000, 224
    draws = draws_of(blending.DRAWS, n)
    first = blending.gamma_of(draws[:, 1], draws[:, 2])
    assert float(first.mean()) == pytest.approx(2 * 0.05, rel=0.05)
    assert float(first.var()) == pytest.approx(2 * 0.05**2, rel=0.1)
    assert float(normal_of(draws[:, 3]).std()) == pytest.approx(1, rel=0.05)
    patches = blending.patches_of(draws[:, 1:11], side, side, is_there=torch.ones(n, dtype=torch.bool))
    for length, centre in ((patches.height, patches.centre_y), (patches.width, patches.centre_x)):
        assert length.min() >= 3
        assert length.max() <= 0.4 * side + 1
        assert (centre - (length - 1) / 2).min() >= 1
        assert (centre + (length - 1) / 2).max() <= side - 2
    assert patches.scale is not None
    for length, centre in ((patches.height, patches.source_y), (patches.width, patches.source_x)):
        half = (length - 1) / 2 / patches.scale
        assert (centre - half).min() > -1
        assert (centre + half).max() < side
    others = torch.stack([draws[:, 1 + 10 * number] < 0.5 for number in range(1, 4)]).sum(0)
    counts = others.bincount(minlength=4) / n
    torch.testing.assert_close(counts, torch.tensor([1, 3, 3, 1]) / 8, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("made", "count"),
    [
        (interpolation.interpolated, interpolation.DRAWS),
        (pasting.pasted, pasting.DRAWS),
        (blending.blended, blending.DRAWS),
    ],
)
def test_the_same_draws_make_the_same_anomalies_and_leave_the_tiles(x: Tensor, made: object, count: int) -> None:
    assert callable(made)
    before, draws = x.clone(), draws_of(count)
    one, other = made(x, draws), made(x.contiguous(memory_format=torch.channels_last), draws)
    torch.testing.assert_close(one.x, other.x)
    torch.testing.assert_close(one.label, other.label)
    assert torch.equal(x, before)
    changed = (one.x != x).any(1, keepdim=True)
    assert not (one.label[~changed] > 0).any() or count == pasting.DRAWS
    assert ((one.label >= 0) & (one.label <= 1)).all()
