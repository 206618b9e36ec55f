"""Discriminators' words as scores, and maps laid over each other."""

import math

import pytest
import torch

from uadray.detectors.scores import enlarged, overlaid, picture_of, reference_discrimination, unlikeliness


def test_words_of_a_discriminator_and_of_a_critic() -> None:
    """Logits 0 and log 3 are D = 1/2 and 3/4."""
    word = torch.tensor([0.0, math.log(3)])
    assert unlikeliness(word, is_logistic=True).tolist() == pytest.approx([0.5, 0.25])
    expected = [math.log(2), math.log(4 / 3)]
    assert reference_discrimination(word, is_logistic=True).tolist() == pytest.approx(expected)
    assert unlikeliness(word, is_logistic=False).tolist() == pytest.approx([0.0, -math.log(3)])
    assert reference_discrimination(word, is_logistic=False).tolist() == pytest.approx([0.0, -math.log(3)])


def test_a_certain_discriminator_gives_finite_scores_in_order() -> None:
    word = torch.tensor([80.0, 60.0, 0.0, -60.0])
    for score in (unlikeliness, reference_discrimination):
        values = score(word, is_logistic=True)
        assert values.isfinite().all()
        assert (values.diff() > 0).all()


def test_maps_are_enlarged_to_the_finest() -> None:
    fine, coarse = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 1, 1)
    assert [tuple(m.shape) for m in enlarged([coarse, fine])] == [(2, 1, 4, 4)] * 2
    assert overlaid([fine, coarse]).unique().tolist() == [0.5]


def test_a_score_without_a_picture_says_so() -> None:
    with pytest.raises(ValueError, match="got none"):
        picture_of(None)
