"""Links to an endpoint's page."""

import pytest

from uadray.errors import InputError
from uadray.reports.viewer_links import bundle_address, checked_viewer, slide_address

NO_PAGES = [
    *("javascript:alert(1)", "host:8000", "//host/", "https://", "", "https://a b/", "file:///etc", "http://["),
    "https://a/\n",
]


@pytest.mark.parametrize("address", NO_PAGES)
def test_what_is_no_page_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="expected the address of an endpoint's page"):
        checked_viewer(address)


def test_links_name_screening_bundle_and_slide() -> None:
    viewer = checked_viewer("https://host:8000/#screening=main")
    assert slide_address(bundle_address(viewer, "a b"), 'x"&#/') == (
        "https://host:8000/#screening=main&bundle=a%20b&slide=x%22%26%23%2F"
    )
    assert bundle_address(viewer, "") == viewer
    assert slide_address(None, "x") is None
