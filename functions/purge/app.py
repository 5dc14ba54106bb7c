"""Cleans up, on a schedule."""

import asyncio
import os
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from parley.bootstrap import build, settings
from parley.support.logs import redact
from parley.usecases import purge

logger = Logger(service="purge")
metrics = Metrics(namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "Parley"), service="purge")
tracer = Tracer(service="purge")


async def _purge() -> dict[str, int]:
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


@metrics.log_metrics
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
@logger.inject_lambda_context(log_event=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, int]:
    """Run the purge once and publish its counts."""
    counts = asyncio.run(_purge())
    for name, count in counts.items():
        metrics.add_metric(name=name, unit=MetricUnit.Count, value=count)
    logger.info("purged", extra=redact(dict(counts)))
    return counts
