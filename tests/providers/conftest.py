"""A provider behind TLS; and which tests run on which event loop."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from local.fake_provider import FakeProvider
from tests.certificates import certificate_for_localhost
from tests.loops import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]

# The SDK asks an adapter's first question, our own connection the later ones. Where bytes are only read and
# understood the loop cannot matter, so each way is tested on one loop; `each_loop` marks the other tests.
_APART = ("asyncio-later question", "uvloop-first question")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is tested on the other loop."""
    left = [item for item in items if _is_apart(item) and item.get_closest_marker("each_loop") is None]
    if left:
        config.hook.pytest_deselected(items=left)
        gone = set(left)
        items[:] = [item for item in items if item not in gone]


def _is_apart(item: pytest.Item) -> bool:
    return any(f"[{name}" in item.name for name in _APART)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for localhost."""
    return certificate_for_localhost(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def secure(certificate: Path) -> AsyncIterator[FakeProvider]:
    """A provider that is reached over TLS only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with FakeProvider(host="localhost", tls=context) as provider:
        yield provider
