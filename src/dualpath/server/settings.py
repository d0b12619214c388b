"""The settings of a server, and the rule that a public server requires keys."""

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path

from dualpath.errors import ServerError
from dualpath.server.access import KeyFile, parse_rate


@dataclass(frozen=True)
class Settings:
    """How a gallery is served.

    Attributes:
        keys: API keys that requests need. None: no key is required.
        hosts: host names that requests may use. None: any name.
        uploads: folder for uploaded images; created if it does not exist. None: the gallery cannot
            be changed.
        rate: requests that one client may send, such as ``3000/minute``.
        max_bytes: largest body of a request.
        max_pixels: largest uploaded image.
    """

    keys: KeyFile | None = None
    hosts: frozenset[str] | None = None
    uploads: Path | None = None
    rate: str = "3000/minute"
    max_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000

    def __post_init__(self) -> None:
        """Raise ``ServerError`` if the rate is not valid."""
        parse_rate(self.rate)


def secure_settings(settings: Settings, host: str) -> Settings:
    """Check that settings are safe on a host, and complete them.

    Without keys, only this machine may reach the server, and only under local host names. This
    prevents a web page from reaching it under a name of its own (DNS rebinding).

    Args:
        settings: to check.
        host: the address to listen on.

    Raises:
        ServerError: other machines can reach ``host`` and no key is required, or the key file
            contains no key.

    >>> sorted(secure_settings(Settings(), "127.0.0.1").hosts)
    ['127.0.0.1', '::1', 'localhost']
    >>> secure_settings(Settings(), "0.0.0.0")
    Traceback (most recent call last):
    dualpath.errors.ServerError: 0.0.0.0: other machines can reach this address; ...
    """
    if settings.keys is not None:
        if not settings.keys.keys:
            path = settings.keys.path
            raise ServerError(
                f"{path}: contains no key; create one with dualpath keys add {path} NAME"
            )
        return settings
    if not is_loopback(host):
        raise ServerError(
            f"{host}: other machines can reach this address; create a key with dualpath keys add "
            "keys.json NAME, and start the server with --keys keys.json"
        )
    local_names = frozenset({"localhost", "127.0.0.1", "::1", host})
    return replace(settings, hosts=settings.hosts or local_names)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("192.168.0.1")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
