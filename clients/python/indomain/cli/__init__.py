"""The command `indomain`: entry point and exit codes. The commands are in commands/."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0: done.
        1: the gateway refused the request; at least one of several pictures failed, now or in an earlier run; or
            results cannot be written.
        2: wrong usage; also a folder with results of another run.
        3: no gateway answers, or it was away for too long.
        130: interrupted; also where nobody reads what is printed any more.
    """
    _prepare_streams()
    try:
        import filelock  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"The command line needs {error.name}: pip install 'indomain-client[cli]'", file=sys.stderr)
        return EXIT_USAGE
    from indomain import Client, GatewayUnreachableError, IndomainError
    from indomain.cli import parser, report
    from indomain.cli.arguments import UsageError
    from indomain.cli.output import OutputError
    from indomain.clients.outages import OutageTooLongError

    arguments = parser.parse(argv)
    try:
        with Client(
            arguments.server,
            timeout_s=arguments.timeout,
            tls=arguments.tls,
            root_certificates=arguments.root_certificates,
            client_certificate=arguments.client_certificate,
        ) as client:
            succeeded = parser.COMMANDS[arguments.command].run(client, arguments)
        return EXIT_OK if succeeded else EXIT_FAILED
    except BrokenPipeError:
        # Who read the answers has gone (`| head`). Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.filename is None:
            report.complain(f"what is printed cannot be written: {error.strerror or error}")
            return EXIT_FAILED
        report.complain(f"{error.filename}: {error.strerror}")
        return EXIT_USAGE
    except (UsageError, ValueError) as error:
        report.complain(str(error))
        return EXIT_USAGE
    except OutputError as error:
        report.complain(str(error))
        return EXIT_FAILED
    except OutageTooLongError as error:
        report.complain(error.message)
        return EXIT_UNREACHABLE
    except GatewayUnreachableError as error:
        report.complain(
            error.message,
            hint="Start one with `make serve`, or name another with --server HOST:PORT (gRPC) or http://HOST:PORT.",
        )
        return EXIT_UNREACHABLE
    except IndomainError as error:
        report.complain_of(error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        report.complain("Interrupted.")
        return EXIT_INTERRUPTED


def _prepare_streams() -> None:
    """Makes names print that the terminal's encoding does not have, and a closed stream (`>&-`) do no harm."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
