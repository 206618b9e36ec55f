"""Whose screening a folder holds, and who is refused."""

from pathlib import Path

import pytest
import screening_drivers as sd
from fault_proxy import FaultProxy
from seaweed import SeaweedServer

from uadray.errors import InputError
from uadray.storage import objects


@pytest.mark.s3
def test_a_screening_is_not_begun_on_a_store_that_ignores_conditions(
    s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"s3://{s3.bucket}/unconditional"
    with FaultProxy(s3.endpoint, lambda r: "unconditional" if r.conditions else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(InputError, match="does not honour"):
            sd.book(out)
        assert list(objects.list_objects(out)) == []


def test_another_bundles_folder_is_refused(tmp_path: Path) -> None:
    sd.book(str(tmp_path))
    with pytest.raises(InputError, match="use another --out"):
        sd.book(str(tmp_path), sd.Bundle(id="other"))
