"""Which checks a node gets."""

from pathlib import Path

from uadray.cluster.checks import examine_node
from uadray.cluster.machine_checks import versions


def test_a_node_is_checked_for_what_it_will_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "slide.tif").write_bytes(b"x")
    always = ["versions", "shared memory", "cache disk", "weights"]
    out, reads = str(tmp_path / "out"), [str(tmp_path / "slide.tif")]
    findings = examine_node(versions(), None, out_uri=out, reads=reads)
    assert [finding.what for finding in findings] == [*always, "input", "output"]
    assert [finding.ok for finding in findings if finding.what in ("versions", "input", "output")] == [True] * 3
    findings = examine_node(versions(), None, out_uri=None, reads=[str(tmp_path / "gone.tif")])
    assert [(finding.what, finding.ok) for finding in findings][-1] == ("input", False)
