"""Addresses of slides on the page of an endpoint that shows them: what its viewer reads lies behind #.

https://endpoint/#screening=main&bundle=a&slide=case-17
"""

from urllib.parse import quote, urlsplit

from uadray.errors import InputError


def checked_viewer(address: str) -> str:
    """The address of an endpoint's page, as it was given.

    Raises:
        InputError: it is no http:// or https:// address.
    """
    try:
        parts = urlsplit(address)
        is_page = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_page = False
    if not is_page or not address.isprintable() or " " in address:
        what = "the address of an endpoint's page, such as https://host:8000/ or https://host:8000/#screening=main"
        raise InputError(f"--viewer {address}: expected {what}")
    return address


def bundle_address(viewer: str, folder: str) -> str:
    """The address that shows the results of one of several bundles; of the only one (`folder` empty) the same."""
    return _with(viewer, "bundle", folder) if folder else viewer


def slide_address(viewer: str | None, slide_id: str) -> str | None:
    """The address of a slide; None where no viewer is known.

    >>> slide_address("https://host/#screening=main", "a&b")
    'https://host/#screening=main&slide=a%26b'
    >>> slide_address("https://host", "a")
    'https://host#slide=a'
    """
    return None if viewer is None else _with(viewer, "slide", slide_id)


def _with(address: str, name: str, value: str) -> str:
    page, _, place = address.partition("#")
    return f"{page}#{place}{'&' if place else ''}{name}={quote(value, safe='')}"
