"""Where `bench.soak_load` finds a world."""

from tests.processes import Fake, Server
from tests.world import World

__all__ = ["Fake", "Server", "World"]
