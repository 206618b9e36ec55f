"""Security headers of every answer. What a page may load is said once, here.

A page of `/` and `/viewer/` may load scripts, styles and data from this server alone, and pictures that its own scripts
made. Everything else is data: it may not be kept by caches, nor run anything where a browser opens it.
"""

PAGE_PATHS = ("/viewer/",)

CSP_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

CSP_DATA = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def is_page(path: str) -> bool:
    """Whether a path is one of the page's files, which hold no data of anybody.

    >>> [is_page(path) for path in ("/", "/viewer/app.js", "/v1/slides", "/viewers")]
    [True, True, False, False]
    """
    return path == "/" or path.startswith(PAGE_PATHS)


def headers_for(path: str) -> dict[str, str]:
    """The headers of an answer; a route that sets one of them itself, as `Cache-Control`, is left its own.

    Args:
        path: of the request, below the application's root.
    """
    if is_page(path):
        return {**ALWAYS, "Content-Security-Policy": CSP_PAGE, "Cache-Control": "no-cache"}
    return {**ALWAYS, "Content-Security-Policy": CSP_DATA, "Cache-Control": "no-store"}
