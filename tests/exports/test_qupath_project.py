"""The list of slides and the script: what is in them, and that no name or path becomes program text."""

import json
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadray.bench.export_material import decision_of
from uadray.exports.qupath_project import SCRIPT, SLIDES, groovy_string, project_files

STRANGE = "7 ü%2F?#&+'<b>${x}"


def test_slides_and_their_metadata(tmp_path: Path) -> None:
    path = str(tmp_path / f"{STRANGE}.svs")
    rows = [decision_of(STRANGE, uri=path, site="North"), decision_of("b", uri="s3://bucket/b.svs", p_value=None)]
    (strange, plain) = json.loads(project_files(rows, str(tmp_path))[SLIDES])["slides"]
    assert (strange["name"], strange["geojson"]) == (STRANGE, f"{STRANGE}.geojson")
    assert unquote(urlparse(strange["image"]).path) == path
    assert strange["metadata"] == {"Decision": "anomalous", "p-value": "0.01", "Score": "2.5", "Site": "North"}
    assert plain["image"] == "s3://bucket/b.svs"
    assert "p-value" not in plain["metadata"]


def test_the_script_has_only_the_folder_in_it() -> None:
    files = project_files([decision_of(STRANGE)], "C:\\new\\u0041's")
    script = files[SCRIPT].decode("ascii")
    assert STRANGE not in script
    assert "new File(args ? args[0] : 'C:\\\\new\\\\u0041\\'s')" in script
    assert "@" not in script
    for opening, closing in ("()", "[]", "{}"):
        assert script.count(opening) == script.count(closing)


def _unescaped(literal: str) -> str:
    """What Groovy's string in single quotes means (groovy-lang.org/syntax.html, 4.1 and 4.1.1)."""
    assert literal[0] == literal[-1] == "'"
    units, at, inner = [], 0, literal[1:-1]
    while at < len(inner):
        assert 32 <= ord(inner[at]) < 127, "a line break or a letter that depends on the encoding"
        assert inner[at] != "'", "it ends the string"
        if inner[at] != "\\":
            units, at = [*units, ord(inner[at])], at + 1
        elif inner[at + 1] == "u":
            units, at = [*units, int(inner[at + 2 : at + 6], 16)], at + 6
        else:
            assert inner[at + 1] in "\\'"
            units, at = [*units, ord(inner[at + 1])], at + 2
    return b"".join(unit.to_bytes(2, "little") for unit in units).decode("utf-16-le", "surrogatepass")


@given(st.text())
def test_groovy_strings_mean_what_they_are_made_of(text: str) -> None:
    assert _unescaped(groovy_string(text)) == text


@pytest.mark.parametrize("text", ["'; new File('/').deleteDir(); '", "${System.exit(0)}", "a\nb", "\\", "\\u0027"])
def test_groovy_strings_are_not_left(text: str) -> None:
    assert _unescaped(groovy_string(text)) == text
