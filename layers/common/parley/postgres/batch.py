"""A batch: statements that travel to the server together in libpq's pipeline mode, and end together."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from psycopg.types.json import set_json_dumps, set_json_loads

from parley.postgres.prepared import Row, Statement
from parley.support.encoding import from_json, to_json

Arguments = Sequence[object] | dict[str, Any]
# A statement and its values.
Query = tuple[str, Arguments]

_WELL = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
# libpq returns a COPY result again and again until the client copies. Parley never copies.
_COPIES = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)


class Cache:
    """The statements of one connection. With `prepare`, the server keeps a plan from the second run on."""

    __slots__ = ("_connection", "_statements", "prepare")

    def __init__(self, connection: psycopg.Connection[Row], *, prepare: bool) -> None:
        set_json_loads(from_json, connection)
        set_json_dumps(to_json, connection)
        self._connection = connection
        self._statements: dict[str, Statement] = {}
        self.prepare = prepare

    def get(self, statement: str) -> Statement:
        """Return the connection's entry for a statement. Raises `ValueError` for mixed placeholders."""
        found = self._statements.get(statement)
        if found is None:
            found = self._statements[statement] = Statement(self._connection, statement)
        return found


# One statement, ready to be sent, with the types and formats of its values.
_Encoded = tuple[Statement, Sequence[Any], tuple[int, ...], Any]


class Batch:
    """Statements on their way, with the rows of those that have ended.

    Between two statements of a batch nothing waits for the client. The server runs no statement after one
    that failed. Without an open transaction, the statements of a batch are one.
    """

    __slots__ = ("_encoded", "_ended", "_expected", "_prepare", "error", "rows")

    def __init__(self, queries: Sequence[Query], cache: Cache) -> None:
        """Encode every value before anything is sent. Raises psycopg's errors, `KeyError`, `ValueError`."""
        self._encoded = [_encoded(cache.get(statement), arguments) for statement, arguments in queries]
        self._prepare = cache.prepare
        # The statement of each expected result; the plan's name, where the result is a new plan.
        self._expected: list[tuple[Statement, tuple[int, ...], bytes]] = []
        self._ended = 0
        self.rows: list[list[Row]] = []
        self.error: Exception | None = None

    def send(self, libpq: Any) -> None:
        """Queue the statements and the end of the batch. Raises `psycopg.OperationalError`."""
        preparing: set[bytes] = set()
        for statement, values, types, formats in self._encoded:
            plan = statement.plans.get(types)
            if plan is None or not self._prepare:
                # Most statements of a new connection run once, and a plan costs the server some work.
                statement.plans[types] = b""
                libpq.send_query_params(statement.query, values, types, formats)
            else:
                if not plan:
                    plan = statement.name_of_plan(types)
                    # A statement may come several times. Its plan counts as made once the server says so.
                    if plan not in preparing:
                        preparing.add(plan)
                        libpq.send_prepare(plan, statement.query, types)
                        self._expected.append((statement, types, plan))
                libpq.send_query_prepared(plan, values, formats)
            self._expected.append((statement, types, b""))
        self._encoded = []
        libpq.pipeline_sync()

    def take(self, result: Any) -> None:
        """Take the result of the next statement. Raises `psycopg.OperationalError` for a COPY."""
        if result.status in _WELL:
            statement, types, plan = self._expected[self._ended]
            self._ended += 1
            if plan:
                statement.plans[types] = plan
                return
            try:
                self.rows.append(statement.rows(result))
            except Exception as error:
                # A value that cannot be decoded is the caller's error, not the event loop's.
                self.error = self.error or error
        elif result.status in _COPIES:
            raise psycopg.OperationalError("the server would copy")
        elif self.error is None:
            # The statements after a failed one end with a result that says no more than that.
            self.error = psycopg.errors.error_from_result(result)


def _encoded(statement: Statement, arguments: Arguments) -> _Encoded:
    if isinstance(arguments, dict):
        arguments = list(map(arguments.__getitem__, statement.names))
    if len(arguments) != len(statement.formats):
        # Otherwise psycopg reads past the end of its own list.
        raise psycopg.ProgrammingError("not as many values as placeholders")
    transformer = statement.transformer
    values = transformer.dump_sequence(arguments, statement.formats)
    return statement, values, transformer.types or (), transformer.formats
