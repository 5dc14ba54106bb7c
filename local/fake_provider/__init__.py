"""A model provider on loopback with the APIs of OpenAI and Anthropic, which fails on demand.

    async with FakeProvider() as fake:
        fake.script("some-model", Script(tokens=("Hel", "lo"), fault="reset", fault_after=1))
        ... send requests to f"{fake.url}/v1/chat/completions" or f"{fake.url}/v1/messages" ...
        await fake.until(lambda: fake.stats.closed_early == 1)

Without a script the reply is `reply_to(prompt)`. A model's name can carry a script, as in
`fake?tokens=200&delay=0.02`, or be the name of a script in `SCENARIOS`.
"""

from local.fake_provider.plan import reply_to, tokens_of
from local.fake_provider.script import SCENARIOS, Script
from local.fake_provider.server import FakeProvider, Received, Stats

__all__ = ["SCENARIOS", "FakeProvider", "Received", "Script", "Stats", "reply_to", "tokens_of"]
