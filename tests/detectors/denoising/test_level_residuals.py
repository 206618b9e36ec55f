"""What reconstructions from several levels are worth, against the definition."""

import pytest
import torch
from networks_watch import smooth_pictures
from torch import Tensor

from uadray.detectors.denoising.residuals import LevelScore, ResidualKind
from uadray.detectors.inversion.normals import Normals, contrast
from uadray.detectors.inversion.picture_distance import PictureDistance
from uadray.networks.lpips import lpips_distance

pytestmark = pytest.mark.usefixtures("torch_alone")

LEVELS = 3


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures(12, 32)


@pytest.fixture
def z(x: Tensor) -> Tensor:
    """Reconstructions that are worse the higher the level."""
    return x[:, None] + torch.randn(12, LEVELS, 3, 32, 32) * torch.tensor([0.1, 0.2, 0.4]).view(1, 3, 1, 1, 1)


def fitted(x: Tensor, z: Tensor, residuals: tuple[ResidualKind, ...], *, by_contrast: bool = False) -> LevelScore:
    distance = PictureDistance(lpips_distance("alexnet"), side_px=64) if "lpips" in residuals else None
    normals = Normals(LEVELS * len(residuals))
    score = LevelScore(normals, residuals=residuals, distance=distance, by_contrast=by_contrast)
    normals.see(contrast(x), score.measured(x, z)[0])
    normals.fit()
    return score


def test_the_score_is_the_mean_of_z_scores(x: Tensor, z: Tensor) -> None:
    """Graham et al. 2023, section 3, level by level in a loop."""
    score = fitted(x, z, ("mse",))
    expected = torch.zeros(12)
    for level in range(LEVELS):
        errors = torch.stack([(x[i] - z[i, level]).pow(2).mean() for i in range(12)])
        expected += (errors - errors.mean()) / errors.std() / LEVELS
    found, by_place = score(x, None, z)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_place.mean((1, 2)), found, rtol=1e-4, atol=1e-4)


def test_what_one_level_has_more_of_counts_by_its_own_spread(x: Tensor, z: Tensor) -> None:
    """The low level's errors are a sixteenth of the high one's; doubled, either moves the score alike."""
    score = fitted(x, z, ("mse",))
    before, _ = score(x, None, z)
    moves = []
    for level in (0, 2):
        worse = z.clone()
        worse[:, level] = x + (z[:, level] - x) * 2**0.5
        moves.append(float((score(x, None, worse)[0] - before).mean()))
    assert moves[0] == pytest.approx(moves[1], rel=0.6)
    assert min(moves) > 1


def test_the_map_shows_where(x: Tensor, z: Tensor) -> None:
    score, spoiled = fitted(x, z, ("mse", "lpips")), z.clone()
    spoiled[:, :, :, 8:16, 16:24] = 1
    by_place = score(x, None, spoiled)[1] - score(x, None, z)[1]
    assert by_place.shape == (12, 32, 32)
    inside = by_place[:, 8:16, 16:24].mean()
    assert inside > 5 * by_place[:, 24:, :8].abs().mean()


def test_lpips_is_lpips(x: Tensor, z: Tensor) -> None:
    score = fitted(x, z, ("lpips",))
    values, _ = score.measured(x, z)
    enlarge = torch.nn.Upsample(size=(64, 64), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = lpips_distance("alexnet")(enlarge(x), enlarge(z[:, 1]))
    torch.testing.assert_close(values[:, 1], expected, rtol=1e-4, atol=1e-5)


def test_by_contrast_tiles_are_compared_with_their_like() -> None:
    """Where the error is the contrast and nothing else, a tile of high contrast is no longer abnormal."""
    x = smooth_pictures(200, 32) * (0.3 + 0.7 * torch.rand(200, 1, 1, 1))
    z = x[:, None].expand(200, LEVELS, 3, 32, 32) * 0.5
    contrasts = contrast(x)
    for by_contrast, least, most in ((False, 0.8, 1.0), (True, -0.4, 0.4)):
        found = fitted(x, z, ("mse",), by_contrast=by_contrast)(x, None, z)[0]
        ranks = [t.argsort().argsort().double() for t in (found, contrasts)]
        assert least < float(torch.corrcoef(torch.stack(ranks))[0, 1]) <= most


def test_latents_of_another_detector_are_refused(x: Tensor, z: Tensor) -> None:
    with pytest.raises(TypeError, match="found tuple"):
        fitted(x, z, ("mse",))(x, None, (z,))
