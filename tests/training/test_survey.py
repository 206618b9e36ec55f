"""Slides that cannot be reached, for no fault of theirs."""

from pathlib import Path

import pytest
from seaweed import SeaweedServer
from training_slides import SPEC

from uadray.errors import WorkError
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.storage import objects
from uadray.training.ray_dataset import on_cluster
from uadray.training.survey import survey, survey_slide

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* is deprecated:DeprecationWarning:ray.data.context"
)  # Ray, of its own options


@pytest.mark.s3
def test_a_full_cache_is_the_systems_fault_too(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slide that only OpenSlide reads needs a copy on the disk."""
    uri = f"s3://{s3.bucket}/full/one.mrxs"
    objects.write_bytes(uri, b"x" * 1000)
    objects.write_bytes(f"s3://{s3.bucket}/full/one/Data0000.dat", b"x" * 100_000)
    monkeypatch.setenv("UADRAY_CACHE_BYTES", "50000")
    survey = survey_slide(SlideRow("one", uri), SPEC)
    assert survey.is_systems
    assert (survey.error or "").startswith("disk_full: ")


@pytest.mark.ray
@pytest.mark.s3
def test_slides_that_cannot_be_reached_end_a_survey_only_if_nothing_can(
    ray_cluster: None, s3: SeaweedServer, manifest: str
) -> None:
    """The session's cluster knows no way to this server."""
    good = read_manifest(manifest)[:2]
    objects.write_bytes(f"s3://{s3.bucket}/reach/a.tif", Path(good[0].uri).read_bytes())
    locked = [SlideRow(f"locked{i}", f"s3://{s3.bucket}/reach/a.tif") for i in range(6)]
    found = survey([good[0], locked[0], good[1]], SPEC, on_cluster)
    assert [s.n_tiles for s in found] == [256, 0, 256]
    assert (found[1].error or "").startswith("unreachable: ")
    with pytest.raises(
        WorkError, match=r"^5 slides could not be reached, for no fault of theirs; slide locked.: unrea"
    ):
        survey([*good, *locked], SPEC, on_cluster)
    with pytest.raises(WorkError, match=r"^1 slide could not be reached"):
        survey(locked[:1], SPEC, on_cluster)
