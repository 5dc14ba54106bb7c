"""The tables of the report: what stands in which column, beside which baseline."""

from bench.cases import path, relay, streams
from bench.contenders import FloorRelay, FloorStores
from bench.report import Column, Table, kb, ms, share, us, whole

_RELAY = FloorRelay.label
_STORES = FloorStores.label

TABLES = (
    Table(
        "Relaying a reply",
        "First token: over a kept connection, one request at a time, beside a direct call. Burst: eight"
        " replies of 2,000 tokens at once, as fast as they go. Slow: 20 tokens a second in each stream."
        " Delivered: of the tokens that were due. Memory: what each stream adds to the process (PSS).",
        (
            Column("first token, ms", relay.TABLE, "first_p50", ms, relay.DIRECT),
            Column("p99", relay.TABLE, "first_p99", ms),
            Column("CPU µs per token, burst", relay.TABLE, "burst_cpu", us, _RELAY),
            Column("200 slow streams: CPU µs per token", streams.TABLE, "cpu_200", us, _RELAY),
            Column("delivered", streams.TABLE, "delivered_200", share),
            Column("1,000 slow streams: CPU µs per token", streams.TABLE, "cpu_1000", us, _RELAY),
            Column("core used", streams.TABLE, "core_1000", share),
            Column("delivered", streams.TABLE, "delivered_1000", share),
            Column("KB a stream", streams.TABLE, "memory_1000", kb),
        ),
    ),
    Table(
        "The whole path, with Postgres and Valkey",
        "Replies of 200 tokens; one request at a time. The baseline is the floor with the same stores.",
        (
            Column("start, ms", path.TABLE, "start_p50", ms, _STORES),
            Column("p99", path.TABLE, "start_p99", ms),
            Column("miss: first token, ms", path.TABLE, "miss_first_p50", ms, _STORES),
            Column("p99", path.TABLE, "miss_first_p99", ms),
            Column("hit: first token, ms", path.TABLE, "hit_first_p50", ms, _STORES),
            Column("p99", path.TABLE, "hit_first_p99", ms),
            Column("hit: last byte, ms", path.TABLE, "hit_last_p50", ms, _STORES),
            Column("history, ms", path.TABLE, "history_p50", ms, _STORES),
            Column("p99", path.TABLE, "history_p99", ms),
        ),
    ),
    Table(
        "Processor time, and load",
        "Processor time of the server for each request, its replies 200 tokens long. Start and history: 16"
        " requests at once, on one core. Then 100 equal prompts at once.",
        (
            Column("CPU µs per start", path.TABLE, "start_cpu", us, _STORES),
            Column("per miss", path.TABLE, "miss_cpu", us, _STORES),
            Column("per hit", path.TABLE, "hit_cpu", us, _STORES),
            Column("per history", path.TABLE, "history_cpu", us, _STORES),
            Column("starts a second", path.TABLE, "start_rate", whole, _STORES),
            Column("histories a second", path.TABLE, "history_rate", whole, _STORES),
            Column("100 equal prompts: provider calls", path.TABLE, "equal_calls", whole),
            Column("first token of the last, ms", path.TABLE, "equal_last", ms, _STORES),
        ),
    ),
)
