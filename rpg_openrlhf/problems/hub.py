"""Hugging Face hub: test that a name is a path, test that the hub can be reached, and explain its errors."""

import os
import re
import socket
import textwrap
from urllib.parse import urlparse

UNREACHABLE = "the hub cannot be reached, and the cache has no copy"
REASONS = {  # by the names of error types, so that no library is imported for them; the most specific first
    "GatedRepoError": "the hub provides it only with a token (HF_TOKEN) whose owner has accepted its terms",
    "RepositoryNotFoundError": "the hub has no such repository, or it is private",
    "RevisionNotFoundError": "the hub has no such revision of it",
    "LocalEntryNotFoundError": UNREACHABLE,
    "ConnectionError": UNREACHABLE,
    "NetworkError": UNREACHABLE,
    "TimeoutException": UNREACHABLE,
}


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


def reason_of(error: BaseException) -> str:
    """Clause that says why the hub did not provide something. The libraries' own texts are several sentences long."""
    names = [kind.__name__ for kind in type(error).__mro__]
    for name, reason in REASONS.items():
        if name in names:
            return reason
    sentence = re.split(r"\n|\.\s", str(error).strip(), maxsplit=1)[0].rstrip(".:")
    return f"{names[0]}: {textwrap.shorten(sentence, 160, placeholder=' ...')}"
