"""Which errors mean that work is repeated: on the same connection, on another one, or later."""

import psycopg
from psycopg import errors

from parley.postgres.transaction import Outdated

# The server rolled the work back, and the connection is intact: repeat the work on it.
AGAIN = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    Outdated,
)
# A prepared plan no longer fits: a migration changed a table, or a pooler changed the server connection.
_STALE_PLANS = (errors.FeatureNotSupported, errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
# After a failover, the connection leads to a server that is only read now; the name leads to the new one.
_ELSEWHERE = (errors.ReadOnlySqlTransaction,)
# psycopg derives the `AGAIN` errors from OperationalError, so test `AGAIN` first where it matters.
BROKEN = (psycopg.OperationalError, psycopg.InterfaceError, OSError, *_STALE_PLANS, *_ELSEWHERE)
# The server runs but accepts no connection now: wait until the deadline. While connecting, libpq reports
# the server's message but not its SQLSTATE, so the message is all there is to match.
CROWDED = ("too many", "connection slots", "starting up", "shutting down", "recovery mode")
# The same of PgBouncer and of RDS Proxy, which may also say it to a connection that they accepted.
POOLER_CROWDED = (
    "no more connections allowed",
    "query_wait_timeout",
    "server_login_retry",
    "Timed-out waiting to acquire",
)
