"""Whose certificate a connection to Postgres believes: a real Postgres behind something that speaks TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from parley.postgres.connection import Connection
from tests.certificates import certificate_for_localhost

_STACK = Path(__file__).resolve().parents[2] / "layers/common/parley/aws/certificates/eu-west-1.pem"
# The code of a request for TLS, and the length before it (PostgreSQL's protocol, "SSLRequest").
_TLS_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a certificate for localhost."""
    return certificate_for_localhost(tmp_path)


@pytest.fixture
async def port(database_url: str, certificate: Path) -> AsyncIterator[int]:
    """The port at which the database speaks TLS: the tests' Postgres is built without it."""
    parts = urlsplit(database_url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readexactly(8) != _TLS_REQUEST:
                writer.write(b"N")  # a request for encryption by GSSAPI
            writer.write(b"S")
            await writer.start_tls(context)
            inner, outer = await asyncio.open_connection(parts.hostname, parts.port)
            with contextlib.closing(outer):
                await asyncio.wait(
                    [asyncio.create_task(_copy(reader, outer)), asyncio.create_task(_copy(inner, writer))],
                    return_when=asyncio.FIRST_COMPLETED,
                )

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)


def _url(database_url: str, host: str, port: int, **options: object) -> str:
    parts = urlsplit(database_url)
    login = parts.netloc.rpartition("@")[0]
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return parts._replace(netloc=f"{login}@{host}:{port}", query=query).geturl()


async def test_a_certificate_of_a_known_authority_for_the_host_is_believed(
    database_url: str, port: int, certificate: Path
) -> None:
    url = _url(database_url, "localhost", port, sslmode="verify-full", sslrootcert=certificate)
    connection = await Connection.open(url, timeout=20, prepare=False)
    assert await connection.execute("select 1", []) == [(1,)]
    connection.close()


async def test_the_authorities_of_the_stack_believe_no_stranger(database_url: str, port: int) -> None:
    url = _url(database_url, "localhost", port, sslmode="verify-full", sslrootcert=_STACK)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        await Connection.open(url, timeout=20, prepare=False)


async def test_a_certificate_for_another_host_is_refused(
    database_url: str, port: int, certificate: Path
) -> None:
    url = _url(database_url, "127.0.0.1", port, sslmode="verify-full", sslrootcert=certificate)
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        await Connection.open(url, timeout=20, prepare=False)
