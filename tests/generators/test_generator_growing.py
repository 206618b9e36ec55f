"""When a generator grows, and what real images it is compared with then."""

import pytest
import torch
from pydantic import ValidationError

from uadray.generators.growing import Place, Schedule, enlarged, seen_at
from uadray.training.config import TrainConfig

SCHEDULE = Schedule(start_px=8, input_px=32, stage_images=100, fade_images=40)


@pytest.mark.parametrize(
    ("images", "place"),
    [
        (0, Place(8)), (99, Place(8)), (100, Place(16, 0.0)), (130, Place(16, 0.75)), (140, Place(16)),
        (239, Place(16)), (240, Place(32, 0.0)), (279, Place(32, 0.975)), (280, Place(32)), (10**7, Place(32)),
    ],
)  # fmt: skip
def test_places_by_hand(images: int, place: Place) -> None:
    assert SCHEDULE.at(images) == place
    assert place.phase in SCHEDULE.phases


def test_all_has_faded_in_after_the_growing_images_and_not_before() -> None:
    assert SCHEDULE.growing_images == 280
    assert Schedule(start_px=8, input_px=8, stage_images=5, fade_images=5).growing_images == 0
    assert SCHEDULE.at(SCHEDULE.growing_images) == Place(32)
    assert SCHEDULE.at(SCHEDULE.growing_images - 1) != Place(32)


def test_phases_are_in_the_order_in_which_a_training_comes_to_them() -> None:
    met = list(dict.fromkeys(SCHEDULE.at(images).phase for images in range(400)))
    assert tuple(met) == SCHEDULE.phases


def test_real_images_fade_like_drawn_ones() -> None:
    """By hand: 2 x 2 means of a 4 x 4 image at 2 px; at alpha 0.25 each is three parts the mean of all four."""
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    means = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    assert torch.equal(seen_at(x, Place(2))[0, 1], means)
    torch.testing.assert_close(seen_at(x, Place(2, 0.25))[0, 1], 0.25 * means + 0.75 * 7.5)
    assert torch.equal(seen_at(x, Place(4)), x)


def test_small_pictures_are_enlarged_without_a_change_of_values() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(enlarged(x, 16)[:, :, ::4, ::4], x)
    assert enlarged(x, 4) is x


def _train(**changes: object) -> TrainConfig:
    generator = {"kind": "pgan", "input_px": 16, "stage_images": 100, "fade_images": 100}  # grown after 400
    run = {"epochs": 2, "steps_per_epoch": 26, "batch_size": 8, "name": "a", "tiles": {"mpp": 1.0, "tile_px": 16}}
    return TrainConfig.model_validate({"generator": generator} | run | changes)


def test_a_training_that_ends_before_it_has_grown_is_refused() -> None:
    """416 images are 400 and two steps; 400 would leave no step with all layers."""
    assert _train().epochs == 2
    with pytest.raises(ValidationError, match=r"400 images are shown .* 16 px after 400; raise steps_per_epoch to 26"):
        _train(steps_per_epoch=25)
    assert _train(steps_per_epoch=13, workers=2).workers == 2
    with pytest.raises(ValidationError, match="208 images are shown"):  # an elastic group may stay at its least
        _train(steps_per_epoch=13, workers=2, min_workers=1)
    assert _train(steps_per_epoch=1, generator={"kind": "wgan_gp", "input_px": 16}).steps_per_epoch == 1
