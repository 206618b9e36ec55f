"""The slides that are open, and since when."""

from uadray.screening.open_slides import OpenSlides


def test_a_set_that_knows_which_is_the_oldest() -> None:
    now = [10.0]
    slides = OpenSlides(["a", "b"], clock=lambda: now[0])
    now[0] = 20.0
    slides.add("c")
    slides.add("a")  # keeps its time
    assert slides.oldest == 10.0
    slides -= {"a", "b", "x"}
    assert (set(slides), len(slides), "c" in slides, "a" in slides, slides.oldest) == ({"c"}, 1, True, False, 20.0)
    slides.discard("c")
    assert slides.oldest is None
    assert slides == set()
