"""Settings are read strictly, and secrets are not shown."""

from pathlib import Path

import pytest

from parley.settings import Settings, SettingsError

SECRETS = {
    "DATABASE_URL": "postgresql://u:hidden-1@h/d",
    "VALKEY_URL": "redis://:hidden-2@h",
    "KEY_SECRET": "hidden-3" * 5,
    "KEY_SECRET_PREVIOUS": "hidden-7" * 5,
    "OPENAI_API_KEY": "hidden-4",
    "ANTHROPIC_API_KEY": "hidden-5",
    "XAI_API_KEY": "hidden-6",
}


def test_defaults_make_sense_by_themselves() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.auth_mode, settings.allow_trusted) == ("jwt", False)
    # Nothing of one user reaches another unless somebody decides that it may.
    assert not settings.share_context_free
    assert settings.pulse_seconds * 2 <= settings.session_lease_seconds
    assert Settings.from_env({"SESSION_SECONDS": "", "AUTH_MODE": ""}) == settings


@pytest.mark.parametrize(
    ("name", "raw", "field", "value"),
    [
        ("DATABASE_URL", "postgresql://h1:5432,h2:5433/d", "database_url", "postgresql://h1:5432,h2:5433/d"),
        ("DATABASE_URL", "postgresql:///d?host=/run", "database_url", "postgresql:///d?host=/run"),
        ("VALKEY_URL", "unix:///run/valkey.sock", "valkey_url", "unix:///run/valkey.sock"),
        ("VALKEY_PREFIX", " a b ", "valkey_prefix", " a b "),
        ("SESSION_SECONDS", "5", "session_seconds", 5),
        ("RETENTION_DAYS", "0", "retention_days", 0),
        ("HEARTBEAT_SECONDS", "0.5", "heartbeat_seconds", 0.5),
        ("DEMO_MODEL", "true", "demo_model", True),
        ("DEMO_MODEL", "1", "demo_model", True),
        ("SHARE_CONTEXT_FREE", "True", "share_context_free", True),
        ("ALLOWED_ORIGINS", "https://a.example, https://b.example,", "allowed_origins",
         ("https://a.example", "https://b.example")),
        ("LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
    ],
)  # fmt: skip
def test_a_variable_is_its_setting_s_value(name: str, raw: str, field: str, value: object) -> None:
    assert getattr(Settings.from_env({name: raw}), field) == value


@pytest.mark.parametrize(
    "env",
    [
        {"AUTH_MODE": "none"},
        {"AUTH_MODE": "Trusted"},
        {"DEMO_MODEL": "yes"},
        {"SESSION_SECONDS": "ten"},
        {"SESSION_SECONDS": "1.5"},
        {"SESSION_SECONDS": "-1"},
        {"HEARTBEAT_SECONDS": "soon"},
        {"HEARTBEAT_SECONDS": "nan"},
        {"HEARTBEAT_SECONDS": "inf"},
        {"HEARTBEAT_SECONDS": "-0.1"},
        {"KEY_SECRET": "too short"},
        {"KEY_SECRET_PREVIOUS": "too short"},
        {"SESSION_LEASE_SECONDS": "9"},
        {"LOG_LEVEL": "LOUD"},
        {"SESSION_SECONDS": "99999999999999"},
        {"DATABASE_POOL_SIZE": "0"},
        {"PROVIDER_TOTAL_SECONDS": "0.0"},
        {"DATABASE_URL": "secret"},
        {"DATABASE_URL": "mysql://u:secret@h/d"},
        {"VALKEY_URL": "secret@h:6379"},
        {"VALKEY_URL": "redis://:secret@h:65536"},
        {"VALKEY_URL": "redis://"},
        {"OPENAI_BASE_URL": "127.0.0.1:8080/v1"},
        {"ANTHROPIC_BASE_URL": "https://[::1"},
        {"XAI_BASE_URL": "ftp://x.example"},
    ],
)
def test_nonsense_is_named_and_not_quoted(env: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_env(env)
    [[name, value]] = env.items()
    assert str(error.value).startswith(f"{name} must")
    assert name not in ("KEY_SECRET", "KEY_SECRET_PREVIOUS") or value not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("place", [{}, {"AWS_LAMBDA_FUNCTION_NAME": "start"}])
def test_trusted_mode_needs_a_second_word_everywhere(place: dict[str, str]) -> None:
    trusted = place | {"AUTH_MODE": "trusted"}
    for more in ({}, {"ALLOW_TRUSTED": "false"}, {"ALLOW_TRUSTED": ""}):
        with pytest.raises(SettingsError, match=r"also needs ALLOW_TRUSTED=true\.$"):
            Settings.from_env(trusted | more)
    assert Settings.from_env(trusted | {"ALLOW_TRUSTED": "true"}).auth_mode == "trusted"


def test_a_renamed_setting_is_read_by_its_old_name_where_the_new_one_is_not_set() -> None:
    old = {"ALLOW_TRUSTED_IN_LAMBDA": "true"}
    assert Settings.from_env(old).allow_trusted
    assert Settings.from_env(old | {"ALLOW_TRUSTED": ""}).allow_trusted
    assert not Settings.from_env(old | {"ALLOW_TRUSTED": "false"}).allow_trusted
    with pytest.raises(SettingsError, match=r"^ALLOW_TRUSTED_IN_LAMBDA must be true or false"):
        Settings.from_env({"ALLOW_TRUSTED_IN_LAMBDA": "yes"})


def test_in_lambda_a_function_starts_with_an_issuer_only() -> None:
    with pytest.raises(SettingsError, match="JWT_ISSUER"):
        Settings.from_env({"AWS_LAMBDA_FUNCTION_NAME": "start"})


@pytest.mark.parametrize("place", [{}, {"AWS_LAMBDA_FUNCTION_NAME": "start"}])
def test_an_issuer_needs_to_know_whom_its_tokens_are_for(place: dict[str, str]) -> None:
    issuer = place | {"JWT_ISSUER": "https://issuer.example"}
    with pytest.raises(SettingsError, match="JWT_AUDIENCE or JWT_CLIENT_ID"):
        Settings.from_env(issuer)
    for name in ("JWT_AUDIENCE", "JWT_CLIENT_ID"):
        assert Settings.from_env(issuer | {name: "parley"}).auth_mode == "jwt"


def test_authorities_that_are_not_there_are_no_database_that_is_away(tmp_path: Path) -> None:
    url = "postgresql://u:hidden@h/d?sslmode=verify-full&sslrootcert="
    with pytest.raises(SettingsError, match=r"^DATABASE_URL must have an sslrootcert") as error:
        Settings.from_env({"DATABASE_URL": f"{url}{tmp_path}/of-no-region.pem"})
    assert "hidden" not in str(error.value)
    (tmp_path / "of-a-region.pem").touch()
    for there in (f"{tmp_path}/of-a-region.pem", "system", ""):
        assert Settings.from_env({"DATABASE_URL": url + there}).database_url == url + there


PLAIN = {
    "http://127.0.0.1:8080/v1": True,
    "http://[::1]:8080/v1": True,
    "http://localhost:4000": True,
    "http://litellm:4000/v1": True,
    "http://10.0.0.7:8000/v1": True,
    "http://172.16.0.7": True,
    "http://192.168.1.20:11434/v1": True,
    "http://[fd00::7]/v1": True,
    "http://gpu.local:8080": True,
    "http://vllm.models.svc.cluster.local/v1": True,
    "http://gateway.internal.:8080": True,
    "https://api.example/v1": True,
    "http://api.example/v1": False,
    "HTTP://api.example/v1": False,
    " http://api.example/v1": False,
    "http://8.8.8.8/v1": False,
    "http://172.32.0.7/v1": False,
    "http://[2606:4700::1]/v1": False,
    "http://[::ffff:8.8.8.8]/v1": False,
    "http://134744072/v1": False,
    "http://0x08080808/v1": False,
    "http://127.0.0.1.evil.example/v1": False,
    "http://localhost.evil.example/v1": False,
    "http://127.0.0.1@evil.example/v1": False,
    "http://evillocal.example/v1": False,
}


@pytest.mark.parametrize("provider", ["OPENAI", "ANTHROPIC", "XAI"])
@pytest.mark.parametrize(("url", "is_safe"), PLAIN.items())
def test_a_key_crosses_the_internet_by_tls_only(provider: str, url: str, is_safe: bool) -> None:
    without_key = {f"{provider}_BASE_URL": url, f"{provider}_API_KEY": " "}
    assert Settings.from_env(without_key)
    with_key = without_key | {f"{provider}_API_KEY": "hidden"}
    if is_safe:
        assert Settings.from_env(with_key)
        return
    with pytest.raises(SettingsError) as error:
        Settings.from_env(with_key)
    assert str(error.value) == f"{provider}_BASE_URL must be an https URL, since a key is sent to it."


def test_secrets_are_read_but_not_shown() -> None:
    settings = Settings.from_env(SECRETS)
    assert settings.openai_api_key == "hidden-4"
    assert "hidden" not in repr(settings)
