"""The command `indomain`: entry point and exit codes. Arguments are in parser.py, what is done in commands.py."""

from __future__ import annotations

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
        0: done. 1: the gateway refused it, or at least one of several pictures failed, now or in a run before. 2: wrong
        usage, a folder of another run's results among it. 3: no gateway answers, or it was away for too long. 130:
        interrupted.
    """
    try:
        import filelock  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"The command line needs {error.name}: pip install 'indomain-client[cli]'", file=sys.stderr)
        return EXIT_USAGE
    from indomain.cli import commands, parser, report

    arguments = parser.parse(argv)
    try:
        return EXIT_OK if commands.run(arguments) else EXIT_FAILED
    except (parser.UsageError, OSError, ValueError) as error:
        report.complain(str(error))
        return EXIT_USAGE
    except commands.OutageTooLongError as error:
        report.complain(error.message)
        return EXIT_UNREACHABLE
    except commands.GatewayUnreachableError:
        report.complain(
            f"No gateway answers at {arguments.server}.",
            hint="Start one with `make serve`, or name another with --server HOST:PORT.",
        )
        return EXIT_UNREACHABLE
    except commands.IndomainError as error:
        report.complain_of(error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        report.complain("Interrupted.")
        return EXIT_INTERRUPTED
