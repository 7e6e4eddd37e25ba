"""`python -m serving` runs a gateway until SIGTERM or SIGINT, with settings from INDOMAIN_* and flags.

SIGHUP makes it look for new versions of bundles.

`python -m serving key NAME` makes an API key, adds its hash to the file of keys, and prints the key once.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

# gRPC's core would write to standard error by itself, a line for each broken TLS handshake. It reads this when it is
# imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import uvloop
from pydantic import ValidationError
from pydantic_settings import CliApp

from serving.access.keys import make_key
from serving.errors import EditingError
from serving.gateway import Gateway
from serving.settings import Settings
from serving.telemetry.logs import LogWriter, configure

_MOST_DESCRIPTORS = 16_384


async def _serve(settings: Settings, log: LogWriter) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(settings)
    log.count_drops(gateway.metrics.log_lines_dropped.inc)
    loop.add_signal_handler(signal.SIGHUP, gateway.reload)
    starting = asyncio.create_task(gateway.start(), name="start")
    stopping = asyncio.create_task(stop.wait(), name="signal")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        # A signal came while it was loading.
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    await starting
    keep_pauses_short()
    await stopping
    logging.getLogger(__name__).info("finishing what is in flight")
    await gateway.stop()


def keep_pauses_short() -> None:
    """Excludes all objects of now from garbage collection; after the start nearly all of them stay for good.

    The garbage collector would look through them again and again, and stop the event loop for up to 0.1 s each time.
    """
    gc.collect()
    gc.freeze()


def give_back_large_memory() -> None:
    """Makes free() give pieces of 1 MB and more back to the system at once, where the C library is glibc.

    Otherwise glibc keeps up to 32 MB of each size that was freed once: after some large pictures the gateway would take
    200 MB more for good.
    """
    mmap_threshold, trim_threshold = -3, -1
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 2**20)
        mallopt(trim_threshold, 2**20)


def allow_more_descriptors() -> None:
    """Takes as many file descriptors as the system allows: the usual default, 1024, is soon used up by connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _make_key(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving key", description="Makes an API key and adds its hash to the file of keys."
    )
    parser.add_argument("owner", metavar="NAME", help="whose key it is; stands in logs")
    default = os.environ.get("INDOMAIN_KEYS_FILE")
    parser.add_argument("--keys-file", type=Path, default=default, required=not default, metavar="FILE")
    parser.add_argument("--requests-per-s", type=float, metavar="N", help="default: no limit")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="requests at once; default: no limit")
    parser.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help="e.g. Edit; default: all")
    given = parser.parse_args(arguments)
    try:
        key = make_key(
            given.keys_file,
            given.owner,
            requests_per_s=given.requests_per_s,
            max_concurrent=given.max_concurrent,
            methods=tuple(given.methods),
        )
    except (EditingError, OSError) as error:
        print(f"serving: {error}", file=sys.stderr)
        return 1
    print(key)
    print(f"Its hash is in {given.keys_file}; the key itself is kept nowhere.", file=sys.stderr)
    return 0


def main() -> int:
    if sys.argv[1:2] == ["key"]:
        return _make_key(sys.argv[2:])
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = ".".join(str(part) for part in problem["loc"])
            where = f"{name}: {problem['msg']} (flag or INDOMAIN_{name.upper()})" if name else problem["msg"]
            print(f"serving: {where}", file=sys.stderr)
        return 2
    log = configure(settings)
    give_back_large_memory()
    allow_more_descriptors()
    try:
        uvloop.run(_serve(settings, log))
    except (EditingError, OSError) as error:
        if error.__cause__ is not None:
            logging.getLogger(__name__).error("%s", error.__cause__)
        print(f"serving: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
