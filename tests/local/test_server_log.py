"""A server's output is lines of JSON, uvicorn's among them."""

import json

from tests.world import World


async def test_every_line_of_a_server_is_json_and_whole(world: World) -> None:
    server = world.fresh_server()
    await world.client(server).ask("Hello?", "demo")
    pid = server.process.pid
    await world.clients[0].close()
    server.terminate()
    entries = [json.loads(line) for line in server.output().splitlines()]
    said = [entry["message"] for entry in entries if entry["logger"] == "uvicorn.error"]
    for line in (
        f"Started server process [{pid}]",
        f"Uvicorn running on {server.url} (Press CTRL+C to quit)",
        f"Finished server process [{pid}]",
    ):
        assert said.count(line) == 1
    assert all(set(entry) >= {"timestamp", "level", "logger", "message"} for entry in entries)
    assert not [entry for entry in entries if "color_message" in entry or "%" in entry["message"]]
    assert "reply_ended" in [entry["message"] for entry in entries]
