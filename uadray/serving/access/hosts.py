"""Names and addresses of this machine, as configurations and requests write them."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """True for `localhost` and for an address that only this machine can reach.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The name or address in a Host header, without its port.

    >>> [host_name(header) for header in ("Localhost:8000", "[::1]:8000", "127.0.0.1", "a.org:80")]
    ['localhost', '::1', '127.0.0.1', 'a.org']
    """
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
