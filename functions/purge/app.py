"""The purge function: saves parked replies, ends orphans, and deletes expired sessions and old chats."""

import asyncio
import os
from typing import Any

from aws_lambda_powertools import Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from parley.bootstrap import build, settings
from parley.usecases import purge

metrics = Metrics(namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "Parley"), service="purge")
tracer = Tracer(service="purge")


async def _purge() -> dict[str, int]:
    # `settings` configures the logs too. Services are not kept: each invocation has an event loop.
    services = build(settings())
    try:
        done = await purge.purge(
            services.store,
            services.log,
            batch=services.settings.purge_batch,
            retention_days=services.settings.retention_days,
        )
    finally:
        await services.close()
    return done.counts()


# No capture of responses and errors: traces could hold data.
@metrics.log_metrics
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, int]:
    """Run the purge once, publish its counts as metrics, and return them. Raises `StoreUnavailable`."""
    counts = asyncio.run(_purge())
    for name, count in counts.items():
        metrics.add_metric(name=name, unit=MetricUnit.Count, value=count)
    return counts
