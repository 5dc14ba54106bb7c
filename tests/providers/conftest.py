"""A provider behind TLS."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from local.fake_provider import FakeProvider
from tests.certificates import certificate_for_localhost
from tests.loops import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]


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
