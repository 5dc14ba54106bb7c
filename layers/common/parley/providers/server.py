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
    host = host_of(base_url)
    found = (title for known, title in _TITLES.items() if host == known or host.endswith(f".{known}"))
    return next(found, "the model's server")


def host_of(base_url: str) -> str:
    """Return the host that a base URL names; nothing where it names none."""
    try:
        return urlsplit(base_url).hostname or ""
    except ValueError:
        return ""


def identity_of_server(base_url: str) -> str:
    """Return what tells a server from others: host, port and path, without a login or a query."""
    try:
        parts = urlsplit(base_url.strip())
    except ValueError:
        return base_url  # no server at all; whoever asks it is told
    return f"{parts.netloc.rpartition('@')[2].lower()}{parts.path.rstrip('/')}"
