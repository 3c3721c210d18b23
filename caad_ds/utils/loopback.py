"""Detect loopback names and addresses."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an interface; names other than localhost are not resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
