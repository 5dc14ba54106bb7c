"""The application of a laptop or a container: all functions' routes, the web UI and a periodic purge."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from functions.history.app import OPERATIONS as HISTORY
from functions.start.app import OPERATIONS as START
from functions.stream.app import OPERATIONS as STREAM
from local.web import mount_web
from parley import bootstrap
from parley.api import health
from parley.api.openapi import documented_app
from parley.domain.errors import ParleyError
from parley.support.gc_tuning import freeze_startup_objects
from parley.support.logs import logger
from parley.usecases.purge import purge

_logger = logger("server")
_PURGE_SECONDS = 60.0


async def _purge_now_and_then() -> None:
    services = bootstrap.services()
    while True:
        await asyncio.sleep(_PURGE_SECONDS)
        try:
            await purge(
                services.store,
                services.log,
                batch=services.settings.purge_batch,
                retention_days=services.settings.retention_days,
            )
        except ParleyError as error:
            _logger.warning("purge_failed", extra={"code": error.code})


@contextlib.asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    freeze_startup_objects()
    purging = asyncio.create_task(_purge_now_and_then())
    try:
        yield
    finally:
        purging.cancel()
        await bootstrap.services().close()


app = documented_app(
    "Parley",
    [*START, *STREAM, *HISTORY, *health.OPERATIONS],
    bootstrap.settings(),
    bootstrap.services,
    prefix="/api",
    lifespan=_lifespan,
)
mount_web(app)
