"""The API keeps to its own OpenAPI document, whatever schemathesis sends: no 5xx, nothing undocumented."""

import asyncio
import os
import sys
from pathlib import Path

from tests.world import World

_ROOT = Path(__file__).resolve().parents[2]
# What the document cannot say: that trusted mode needs a userId, which ids there are, that a prompt of
# white space is none.
_CANNOT_SAY = "positive_data_acceptance"

# Requests made up for each operation, beside those that the document asks for by itself. A long run:
# PARLEY_FUZZ_EXAMPLES=1000 make test ARGS=tests/functions/test_openapi.py
_EXAMPLES = os.environ.get("PARLEY_FUZZ_EXAMPLES", "5")

_CONFIG = """
[parameters]
"query.userId" = "demo-pro"
"query.chatId" = "{chat}"
"query.sessionId" = "{session}"
"""


async def _run(world: World, url: str, name: str, config: str) -> str:
    """Let schemathesis loose, and return what it says once it found nothing."""
    settings = world.folder / f"{name}.toml"
    settings.write_text(config)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run",
        f"{url}/api/openapi.json", "--checks", "all", "--exclude-checks", _CANNOT_SAY,
        "--phases", "coverage,fuzzing", "--max-examples", _EXAMPLES, "--seed", "1",
        "--no-color", "--suppress-health-check", "all",
        cwd=world.folder,
        env=os.environ | {"PYTHONPATH": str(_ROOT), "SCHEMATHESIS_HOOKS": "tests.functions.openapi_hooks"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_the_api_keeps_to_its_document(world: World) -> None:
    server = world.server()
    client = world.client(server)
    started, _ = await client.ask("Hello?", "demo")
    config = _CONFIG.format(chat=started["chatId"], session=started["sessionId"])
    said = await asyncio.gather(
        _run(world, server.url, "anybody", ""), _run(world, server.url, "owner", config)
    )
    for out in said:
        assert " passed" in out, out
    assert "request_broke" not in server.output()
    # Some of it was even carried out.
    assert world.sql("select count(*) from sessions")[0][0] > 1
