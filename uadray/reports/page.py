"""What all pages use: templates, how numbers are written, and the hashes of a page's own script and style."""

import base64
import hashlib
from functools import cache
from importlib import resources

import jinja2

_UNKNOWN = "\N{EN DASH}"


@cache
def template(name: str) -> jinja2.Template:
    """A template of `reports/templates`: what is put into it is escaped, and a name that is missing is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, percent=percent, thousands=thousands)
    return environment.from_string(asset(name))


@cache
def asset(name: str) -> str:
    """The text of a file of `reports/templates`."""
    return (resources.files("uadray.reports") / "templates" / name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """The hash by which a page's Content-Security-Policy names its own script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits without an exponent where people can read it, a dash for nothing.

    >>> number(0.03226), number(12.5), number(None), number(0.00001234), number(1717.4) == thousands(1717)
    ('0.0323', '12.5', '–', '1.23e-05', True)
    """
    if value is None:
        return _UNKNOWN
    if 10**digits <= abs(round(value, 0)) < 10**7:
        return thousands(round(value))
    return f"{value:#.{digits}g}".rstrip(".")


def percent(value: float | None) -> str:
    """A share as per cent, never rounded up to 100 or down to 0.

    >>> percent(0.0323), percent(0.9996), percent(1), percent(None), percent(0.0002)
    ('3.2 %', '99.9 %', '100 %', '–', '0.02 %')
    """
    if value is None:
        return _UNKNOWN
    if 0 < 100 - value * 100 < 0.1:
        return "99.9 %"
    return f"{value * 100:.2g} %" if value < 0.1 else f"{value * 100:.3g} %"


def thousands(value: int | None) -> str:
    """Digits in groups of three, with narrow spaces that do not break."""
    return _UNKNOWN if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
