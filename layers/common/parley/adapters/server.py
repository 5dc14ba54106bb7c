"""Which server a base URL leads to: its name for users, and its identity for generation keys."""

from urllib.parse import urlsplit

_TITLES = {
    "openai.com": "OpenAI",
    "openai.azure.com": "Azure OpenAI",
    "anthropic.com": "Anthropic",
    "x.ai": "xAI",
}


def title_of_server(base_url: str) -> str:
    """Return what users know a server by: its owner's name, or that it is the model's."""
    host = urlsplit(base_url).hostname or ""
    found = (title for known, title in _TITLES.items() if host == known or host.endswith(f".{known}"))
    return next(found, "the model's server")


def identity_of_server(base_url: str) -> str:
    """Return what tells a server from others: host, port and path, without a login or a query."""
    parts = urlsplit(base_url.strip())
    return f"{parts.netloc.rpartition('@')[2].lower()}{parts.path.rstrip('/')}"
