"""The pages in deploy/: every command of uadray in them exists with its options, and every link leads somewhere."""

import re
from pathlib import Path

import click
import pytest
import typer

from uadray.cli import app

FOLDER = Path(__file__).parents[1] / "deploy"
PAGES = sorted(FOLDER.glob("*.md"))
COMMAND = re.compile(r"(?:^|[\s`(=])(?:/opt/uadray/bin/)?uadray ((?:[a-z]+)(?: [^`\n#;|]*)?)")


def _commands(page: Path) -> list[list[str]]:
    """The words behind `uadray` in code: of blocks, whose lines may go on, and within a line of text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```(?:sh|ini)\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`((?:[^`\n]+ )?uadray [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    code = "\n".join([*blocks, *(span for span in spans if re.match(r"(.* -- )?uadray ", span))])
    return [match.split() for match in COMMAND.findall(code)]


def _command(words: list[str]) -> click.Command:
    """The command that the first words name."""
    command = typer.main.get_command(app)
    context = click.Context(command)
    for word in words:
        if not hasattr(command, "get_command"):
            break
        found = command.get_command(context, word)
        assert found is not None, f"uadray has no command {word!r}: {' '.join(words)}"
        command = found
    return command


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists(page: Path) -> None:
    for words in _commands(page):
        known = {option for parameter in _command(words).params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)}
        assert used <= known, f"{page.name}: uadray {' '.join(words)}: there is no {', '.join(sorted(used - known))}"


def test_commands_are_found() -> None:
    found = {words[0] for page in PAGES for words in _commands(page)}
    assert {"screen", "doctor", "serve", "exporter", "weights"} <= found
    with pytest.raises(AssertionError, match="no command 'scren'"):
        _command(["scren", "a"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: there is no {link}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", target.read_text(encoding="utf-8"))
            assert anchor in {_slug(heading) for heading in headings}, f"{page.name}: there is no {link}"
