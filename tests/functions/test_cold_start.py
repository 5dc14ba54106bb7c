"""What a sandbox imports before its first request, and what a cache hit never imports."""

import subprocess
import sys

import pytest

SDKS = {"openai", "anthropic", "httpx2"}
# What documents the routes, which Lambda serves without it.
DOCUMENTS = {"fastapi", "pydantic"}
DEPLOYED = {
    "AWS_LAMBDA_FUNCTION_NAME": "parley",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "DATABASE_URL": "postgresql://127.0.0.1:1/parley",
    "DATABASE_SECRET_ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:database",
    "KEYS_SECRET_ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:keys",
    "VALKEY_URL": "rediss://127.0.0.1:1",
    "AUTH_MODE": "jwt",
    "JWT_ISSUER": "https://issuer.example",
    "JWT_CLIENT_ID": "client",
}


def loaded(function: str, **settings: str) -> set[str]:
    """Return the packages that a process has after it imported a function."""
    script = (
        f"import sys, functions.{function}.app\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"PYTHONPATH": "layers/common:."} | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("function", ["start", "history"])
def test_before_its_first_request_a_sandbox_has_what_that_needs(function: str) -> None:
    packages = loaded(function, **DEPLOYED)
    assert {"boto3", "redis", "jwt"} <= packages
    assert not packages & {*SDKS, *DOCUMENTS, "aws_xray_sdk", "uvicorn"}


def test_the_stream_has_no_use_for_tokens_nor_for_a_provider_before_a_question() -> None:
    packages = loaded("stream", **DEPLOYED)
    assert {"boto3", "redis"} <= packages
    assert not packages & {*SDKS, *DOCUMENTS, "aws_xray_sdk", "jwt", "mangum"}


@pytest.mark.parametrize("function", ["start", "history", "stream"])
def test_a_laptop_waits_for_nothing_that_it_may_not_need(function: str) -> None:
    trusted = {"AUTH_MODE": "trusted", "ALLOW_TRUSTED": "true"}
    assert not loaded(function, **trusted) & {*SDKS, "boto3", "redis", "jwt"}


@pytest.mark.parametrize("function", ["purge", "migrate"])
def test_a_function_without_http_imports_no_web_framework(function: str) -> None:
    assert not loaded(function, **DEPLOYED) & {*SDKS, "fastapi", "starlette", "uvicorn", "mangum"}
