"""Names that mean the Hugging Face hub, and whether it can be reached."""

import os
import socket
from urllib.parse import urlparse


def looks_like_path(name: str) -> bool:
    """True for what can only be meant as a path: a hub id is `name` or `organisation/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")


def hub_is_reachable() -> bool:
    """True if the hub's name resolves; without this an offline machine waits half a minute in retries."""
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True
    try:
        socket.getaddrinfo(urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname, 443)
    except OSError:
        return False
    return True
