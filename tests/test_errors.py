"""Errors carry an exit status and cross process borders whole."""

import pickle

import pytest

from uadray.errors import SHOW_IDS, InputError, SlideError, UadrayError, WorkError, shown_text


@pytest.mark.parametrize(("kind", "status"), [(InputError, 2), (WorkError, 1), (UadrayError, 1)])
def test_exit_status(kind: type[UadrayError], status: int) -> None:
    assert kind("no such manifest").exit_status == status
    assert str(kind("no such manifest")) == "no such manifest"


def test_slide_error_names_slide_and_reason() -> None:
    error = SlideError("s1", "no_mpp", "the file does not say")
    assert str(error) == "slide s1: the file does not say"
    assert error.exit_status == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_slide_error_pickles(protocol: int) -> None:
    error = pickle.loads(pickle.dumps(SlideError("s1", "no_mpp", "text"), protocol))  # noqa: S301 - our own bytes
    assert type(error) is SlideError
    assert (error.slide_id, error.reason, error.message) == ("s1", "no_mpp", "text")
    assert str(error) == "slide s1: text"


def test_messages_in_logs_have_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "node 10.0.0.3: unreadable: /mnt/My Slides/Jane Doe.svs: it is cut off; s3://bucket/p1/a.svs"
    assert shown_text(text) == "node 10.0.0.3: unreadable: (path): it is cut off; (path)"
    monkeypatch.setenv(SHOW_IDS, "1")
    assert shown_text(text) == text
