"""What workers have done is added up, once."""

import pytest

from uadray.training.board import Board, Tally
from uadray.training.loop import Step


def test_the_work_of_two_workers_is_the_sum_and_their_losses_the_mean() -> None:
    board = Board()
    for loss in (1.0, -3.0):
        tally = Tally()
        tally.add(Step(8, 0.1, {"critic": loss, "mse": 0.5}), seconds=0.4)
        tally.add(Step(8, 0.2, {"critic": loss}), seconds=0.6)
        board.count(tally)
    news = board.take()
    assert news.tally.tiles == 32
    assert (news.tally.seconds, news.tally.waited_s) == pytest.approx((2.0, 0.6))
    assert news.tally.mean_losses() == pytest.approx({"critic": -1.0, "mse": 0.5})
    assert board.take().tally == Tally()
