"""`python -m serving`: settings from INDOMAIN_* and flags, then the gateway until SIGTERM or SIGINT.

SIGHUP makes it look for new versions of bundles.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from serving.errors import EditingError
from serving.gateway import Gateway
from serving.settings import Settings


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(settings)
    loop.add_signal_handler(signal.SIGHUP, gateway.reload)
    starting = asyncio.create_task(gateway.start(), name="start")
    stopping = asyncio.create_task(stop.wait(), name="signal")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # told to stop while loading
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    await starting
    await stopping
    logging.getLogger(__name__).info("finishing what is in flight")
    await gateway.stop()


def main() -> int:
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = ".".join(str(part) for part in problem["loc"])
            print(f"serving: {name}: {problem['msg']} (flag or INDOMAIN_{name.upper()})", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # the gateway says itself when it starts and stops
    try:
        asyncio.run(_serve(settings))
    except (EditingError, OSError) as error:
        if error.__cause__ is not None:
            logging.getLogger(__name__).error("%s", error.__cause__)
        print(f"serving: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
