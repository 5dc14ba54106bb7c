"""Names and identifies the server of a base URL, for users and for generation keys."""

import functools
from urllib.parse import urlsplit

_TITLES = {
    "openai.com": "OpenAI",
    "openai.azure.com": "Azure OpenAI",
    "anthropic.com": "Anthropic",
    "x.ai": "xAI",
}


def title_of_server(base_url: str) -> str:
    """Return the server's name for users: its owner's, or "the model's server"."""
    host = host_of(base_url)
    found = (title for known, title in _TITLES.items() if host == known or host.endswith(f".{known}"))
    return next(found, "the model's server")


def host_of(base_url: str) -> str:
    """Return the host of a base URL; "" if it has none."""
    try:
        return urlsplit(base_url).hostname or ""
    except ValueError:
        return ""


@functools.lru_cache(maxsize=16)  # every question asks for it
def identity_of_server(base_url: str) -> str:
    """Return a server's identity: its host, port and path, without a login or a query."""
    try:
        parts = urlsplit(base_url.strip())
    except ValueError:
        return base_url  # not a URL: the first request to it fails and says so
    return f"{parts.netloc.rpartition('@')[2].lower()}{parts.path.rstrip('/')}"
