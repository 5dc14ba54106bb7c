"""What 1,000 chats cost, computed from what was measured: a prompt, and a reply of 200 tokens at 20 a second.

On-demand Lambda bills the time that an invocation waits: (start + stream) x memory. A host that serves many
streams at once is used by their processor time alone. Prices: us-east-1, arm64, November 2026.
"""

import math
import re

from bench.bench import Bench
from bench.cases import path, streams
from bench.contenders import FastApi, Nest, Parley
from bench.driver import BadAnswer
from bench.servers import Contender

TABLE = "cost"
_GB_SECOND = 0.0000133334
_REQUEST = 0.20 / 1_000_000
# A virtual processor with 2 GB on Fargate, for a second.
_HOST_SECOND = (0.03238 + 2 * 0.00356) / 3600
_TOKENS = 200
_REPLY_SECONDS = _TOKENS / 20
_HITS = 0.8
# Lambda gives a function of so many MB one whole virtual processor.
_WHOLE_PROCESSOR_MB = 1769
# Lambda's least. A function has twice what its process has: for the rest of the sandbox, and busy moments.
_LEAST_MB = 128


async def run(bench: Bench) -> None:
    """Compute the costs of all whose path was measured."""
    for contender in bench.contenders:
        if isinstance(contender, Parley | FastApi | Nest):
            memory = bench.sheet.median("process", contender.label, "memory")
            if memory is not None:
                least = max(_LEAST_MB, math.ceil(2 * memory / 2**20))
                _compute(bench, contender, contender.label, least, least)
        if isinstance(contender, Parley):
            label = f"{contender.label}, by the template's defaults"
            with bench.noting(contender):
                api, stream = (_template(contender, name) for name in ("ApiMemory", "StreamMemory"))
                _compute(bench, contender, label, api, stream)


def _template(parley: Parley, parameter: str) -> int:
    """Return a parameter's default in the template that a build is deployed by; raises `BadAnswer`."""
    text = (parley.build.root / "template.yaml").read_text("utf-8")
    found = re.search(
        rf"^  {parameter}:\n(?:    .*\n)*?    Default: (\d+)\n",
        text,
        re.MULTILINE,
    )
    if found is None:
        raise BadAnswer(f"its template has no {parameter}")
    return int(found[1])


def _compute(bench: Bench, contender: Contender, label: str, api_mb: int, stream_mb: int) -> None:
    def figure(table: str, column: str) -> float:
        value = bench.sheet.median(table, contender.label, column)
        if value is None:
            raise LookupError(column)
        return value

    try:
        new_cpu, known_cpu, hit_cpu, miss_cpu = (
            figure(path.TABLE, f"{name}_cpu") for name in ("start", "known", "hit", "miss")
        )
        start_cpu = _HITS * known_cpu + (1 - _HITS) * new_cpu
        start_wall = _HITS * figure(path.TABLE, "known_p50") + (1 - _HITS) * figure(path.TABLE, "start_p50")
        start = _billed(start_wall, start_cpu, api_mb)
        hit = _billed(figure(path.TABLE, "hit_last_p50"), hit_cpu, stream_mb)
        # The reply's own time, in which its tokens are relayed; around it, what any miss takes.
        miss = _REPLY_SECONDS + _billed(figure(path.TABLE, "miss_first_p50"), miss_cpu, stream_mb)
        memory = figure("process", "memory")
        token_cpu = figure(streams.TABLE, "cpu_200")
    except LookupError:
        return
    stream = _HITS * hit + (1 - _HITS) * miss
    lambda_cost = 1000 * (_GB_SECOND * (start * api_mb + stream * stream_mb) / 1024 + 2 * _REQUEST)
    cpu = start_cpu + _HITS * hit_cpu + (1 - _HITS) * (miss_cpu + _TOKENS * token_cpu)
    for column, value in (
        ("mb", stream_mb),
        ("memory", memory),
        ("start", start),
        ("hit", hit),
        ("miss", miss),
        ("lambda", lambda_cost),
        ("cpu", cpu),
        ("host", 1000 * cpu * _HOST_SECOND),
    ):
        bench.sheet.add(TABLE, label, column, value)


def _billed(wall: float, cpu: float, mb: int) -> float:
    """Return how long it takes with less than a whole processor: waiting stays, work is stretched."""
    return max(0.0, wall - cpu) + cpu * max(1.0, _WHOLE_PROCESSOR_MB / mb)
