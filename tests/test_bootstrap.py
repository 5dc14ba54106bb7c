"""What a process is made of, by its settings."""

import pytest

from parley.bootstrap import build
from parley.settings import Settings, SettingsError

SECRET = "a secret that only this test knows, long enough"


@pytest.mark.parametrize(
    "settings",
    [
        Settings(database_url="postgresql://localhost/parley", key_secret=SECRET),
        # The secret may be the whole URL.
        Settings(database_secret_arn="arn:aws:secretsmanager:us-east-1:1:secret:db", key_secret=SECRET),
    ],
)
async def test_a_database_is_named_by_its_url_or_by_its_secret(settings: Settings) -> None:
    await build(settings).close()


async def test_a_process_without_a_database_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        build(Settings(key_secret=SECRET))
