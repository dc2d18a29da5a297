"""Hugging Face hub: test that a name is a path rather than a hub id, and that the hub can be reached."""

import os
import socket
from urllib.parse import urlparse


def looks_like_path(name: str) -> bool:
    """True if a name can only be a path; a hub id is `name` or `organisation/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")


def hub_is_reachable() -> bool:
    """True if the hub's name resolves or a proxy is set. Without this test an offline machine retries for long."""
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True
    try:
        socket.getaddrinfo(urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname, 443)
    except OSError:
        return False
    return True
