"""The tables of the report: what stands in which column, beside which baseline."""

from bench.cases import cold, cost, growth, path, relay, resume, starts, streams
from bench.contenders import FloorRelay, FloorStores
from bench.report import Column, Table, dollars, kb, mb, ms, plain, share, us, whole

_RELAY = FloorRelay.label
_STORES = FloorStores.label
_PASS = cold.BASELINE

TABLES = (
    Table(
        "Relaying a reply",
        "First token: over a kept connection, one request at a time, beside a direct call. Burst: eight"
        " replies of 2,000 tokens at once, as fast as they go. Slow: 20 tokens a second in each stream."
        " Delivered: of the tokens that were due. Memory: what each stream adds to the process (PSS)."
        " Parley's row has its stores, its log and its flushes in it; the others only relay.",
        (
            Column("first token, ms", relay.TABLE, "first_p50", ms, relay.DIRECT),
            Column("p99", relay.TABLE, "first_p99", ms, alone="first token, ms, p99"),
            Column("CPU µs per token, burst", relay.TABLE, "burst_cpu", us, _RELAY),
            Column("200 slow streams: CPU µs per token", streams.TABLE, "cpu_200", us, _RELAY),
            Column("delivered", streams.TABLE, "delivered_200", share, alone="200 slow streams: delivered"),
            Column("1,000 slow streams: CPU µs per token", streams.TABLE, "cpu_1000", us, _RELAY),
            Column(
                "the stores' CPU",
                streams.TABLE,
                "stores_1000",
                us,
                alone="1,000 slow streams: the stores' CPU µs per token",
            ),
            Column("core used", streams.TABLE, "core_1000", share, alone="1,000 slow streams: core used"),
            Column(
                "delivered", streams.TABLE, "delivered_1000", share, alone="1,000 slow streams: delivered"
            ),
            Column("KB a stream", streams.TABLE, "memory_1000", kb, alone="1,000 slow streams: KB a stream"),
        ),
    ),
    Table(
        "The whole path, with Postgres and Valkey",
        "Replies of 200 tokens; one request at a time. The baseline is the floor with the same stores. Parley"
        " saves a hit's reply with its start, the floor and the peers after its stream has ended; start and"
        " hit together, with the reply saved before the last byte, have a column of their own.",
        (
            Column("start, ms", path.TABLE, "start_p50", ms, _STORES),
            Column("p99", path.TABLE, "start_p99", ms, alone="start, ms, p99"),
            Column("start of a hit, ms", path.TABLE, "known_p50", ms, _STORES),
            Column("miss: first token, ms", path.TABLE, "miss_first_p50", ms, _STORES),
            Column("p99", path.TABLE, "miss_first_p99", ms, alone="miss: first token, ms, p99"),
            Column("hit: first token, ms", path.TABLE, "hit_first_p50", ms, _STORES),
            Column("p99", path.TABLE, "hit_first_p99", ms, alone="hit: first token, ms, p99"),
            Column("hit: last byte, ms", path.TABLE, "hit_last_p50", ms, _STORES),
            Column("p99", path.TABLE, "hit_last_p99", ms, alone="hit: last byte, ms, p99"),
            Column("start and hit, saved, ms", path.TABLE, "saved_p50", ms, _STORES),
            Column("history, ms", path.TABLE, "history_p50", ms, _STORES),
            Column("p99", path.TABLE, "history_p99", ms, alone="history, ms, p99"),
        ),
    ),
    Table(
        "Processor time, and load",
        "Processor time of the server for each request, its replies 200 tokens long. Start and history: 16"
        " requests at once, on one core. Then 100 equal prompts at once.",
        (
            Column("CPU µs per start", path.TABLE, "start_cpu", us, _STORES),
            Column(
                "per start of a hit", path.TABLE, "known_cpu", us, _STORES, alone="CPU µs per start of a hit"
            ),
            Column("per miss", path.TABLE, "miss_cpu", us, _STORES, alone="CPU µs per miss"),
            Column("per hit", path.TABLE, "hit_cpu", us, _STORES, alone="CPU µs per hit"),
            Column("per history", path.TABLE, "history_cpu", us, _STORES, alone="CPU µs per history"),
            Column("starts a second", path.TABLE, "start_rate", whole, _STORES),
            Column("histories a second", path.TABLE, "history_rate", whole, _STORES),
            Column("100 equal prompts: provider calls", path.TABLE, "equal_calls", whole),
            Column(
                "first token of the last, ms",
                path.TABLE,
                "equal_last",
                ms,
                _STORES,
                alone="100 equal prompts: first token of the last, ms",
            ),
        ),
    ),
    Table(
        "Starts",
        "One request at a time; then with 1 ms more in every round trip to Postgres; then 16 at once of one"
        " user, whose starts are put in order.",
        (
            Column("start, ms", starts.TABLE, "p50", ms),
            Column("CPU µs", starts.TABLE, "cpu", us, alone="start, CPU µs"),
            Column("the stores' CPU µs", starts.TABLE, "stores_cpu", us, alone="start, the stores' CPU µs"),
            Column("Postgres 1 ms away: start, ms", starts.TABLE, "away_p50", ms),
            Column("one user: starts a second", starts.TABLE, "rate_of_one", whole),
        ),
    ),
    Table(
        "Resume",
        "From the reconnect to the first character that was missing, 0.3 s after a reader left a reply that"
        " is still being written. The floor has a finished reply at hand. No peer resumes.",
        (
            Column("first missing character, ms", resume.TABLE, "p50", ms, _STORES),
            Column("p99", resume.TABLE, "p99", ms, alone="first missing character, ms, p99"),
        ),
    ),
    Table(
        "Cold start",
        "Processor time of a new process until the first byte of its answer, in ms; in brackets, how many"
        " times that of a Python that does nothing. Everything is compiled already.",
        (
            Column("start", cold.TABLE, "start", ms, _PASS, alone="start, ms of CPU"),
            Column("history", cold.TABLE, "history", ms, _PASS, alone="history, ms of CPU"),
            Column("hit", cold.TABLE, "hit", ms, _PASS, alone="hit, ms of CPU"),
            Column("miss: OpenAI", cold.TABLE, "miss_openai", ms, _PASS, alone="miss: OpenAI, ms of CPU"),
            Column(
                "miss: Anthropic", cold.TABLE, "miss_anthropic", ms, _PASS, alone="miss: Anthropic, ms of CPU"
            ),
            Column("miss: xAI", cold.TABLE, "miss_xai", ms, _PASS, alone="miss: xAI, ms of CPU"),
        ),
    ),
    Table(
        "What 1,000 chats cost",
        "A prompt and a reply of 200 tokens at 20 a second, 80 % hits; computed from the figures above, with"
        " the prices in bench/cases/cost.py. A function has twice the memory of its process, and at least the"
        " 128 MB of Lambda's smallest. Work is stretched where it has less than a whole processor for that."
        " Parley's is measured on uvloop, which its functions do not use: it is less than a hundredth of the"
        " time. Not counted: cold starts, stores, traffic.",
        (
            Column("function, MB", cost.TABLE, "mb", whole),
            Column("the process has, MB", cost.TABLE, "memory", mb),
            Column("billed: start, ms", cost.TABLE, "start", ms),
            Column("hit, ms", cost.TABLE, "hit", ms, alone="billed: hit, ms"),
            Column("miss, s", cost.TABLE, "miss", plain, alone="billed: miss, s"),
            Column("on-demand Lambda, $", cost.TABLE, "lambda", dollars),
            Column("CPU ms per chat", cost.TABLE, "cpu", ms),
            Column("a host with many streams, $", cost.TABLE, "host", dollars),
        ),
    ),
    Table(
        "Growth: streams in one process, 20 tokens a second each",
        "What 1,000 cost each should be what one costs.",
        (
            Column("Parley: CPU µs per token", growth.STREAMS, "parley_cpu", us),
            Column("KB a stream", growth.STREAMS, "parley_memory", kb, alone="Parley: KB a stream"),
            Column("floor: CPU µs per token", growth.STREAMS, "floor_cpu", us),
            Column("KB a stream", growth.STREAMS, "floor_memory", kb),
        ),
    ),
    Table(
        "Growth: messages in a chat",
        "History returns 50 messages; a question is sent with at most 20,000 characters of context.",
        (
            Column("history, ms", growth.CHATS, "history", ms),
            Column("CPU µs", growth.CHATS, "history_cpu", us, alone="history, CPU µs"),
            Column("miss: first token, ms", growth.CHATS, "miss", ms),
            Column("CPU µs of start and miss", growth.CHATS, "miss_cpu", us),
        ),
    ),
    Table(
        "Growth: sessions in the tables",
        "A run of the purge's function in a process that has run it before, its connections included; it"
        " deletes 1,000 that have expired.",
        (
            Column("start, ms", growth.SESSIONS, "start", ms),
            Column("CPU µs", growth.SESSIONS, "start_cpu", us, alone="start, CPU µs"),
            Column("purge, ms", growth.SESSIONS, "purge", ms),
        ),
    ),
)
