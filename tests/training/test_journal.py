"""What a reader died over."""

from uadray.training.journal import Journal


def test_what_a_reader_died_over_is_read_alone_and_then_left_out() -> None:
    journal = Journal()
    journal.start(3)
    journal.begin(3, ["a", "b", "c"])
    journal.start(3)  # again: the process that read all three has died
    assert journal.groups(["a", "b", "c", "d"]) == [["a"], ["b"], ["c"], ["d"]]
    journal.begin(3, ["a"])
    journal.begin(3, ["b"])
    assert journal.groups(["a", "d"]) == [["a", "d"]], "it was read alone, and nobody died"
    journal.start(3)
    assert journal.groups(["a", "b", "c", "d"]) == [["c"], ["a", "d"]]
    assert journal.take() == [("b", "crashed: 2 processes died while they read it")]
    journal.begin(3, ["c"])
    journal.end(3)
    journal.start(4)
    assert journal.groups(["b", "c"]) == [["c"]]
