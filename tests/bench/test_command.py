"""What a command prints is kept with its time; one that does not end is killed."""

import os
import sys

from uadray.bench.command import Command, is_named, longest_silence


def test_what_a_command_prints_is_kept_with_its_time() -> None:
    say = "import sys, time; print('a', flush=True); time.sleep(0.3); print('b\\n', file=sys.stderr); sys.exit(3)"
    with Command([sys.executable, "-c", say], dict(os.environ)) as command:
        assert command.wait(10) == 3
        assert command.seconds == command.seconds
    assert [line for _, line in command.lines] == ["a", "b", ""]
    assert longest_silence([at for at, _ in command.lines], command.seconds) >= 0.3
    assert is_named(command.lines, "b")
    assert not is_named(command.lines, "a", "b")


def test_a_command_that_does_not_end_is_killed() -> None:
    with Command(["sleep", "60"], dict(os.environ)) as command:
        assert command.wait(0.1) is None
    assert command._process.returncode == -9
