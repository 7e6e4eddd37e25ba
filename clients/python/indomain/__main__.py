"""`python -m indomain`: the command line, for where the script is not on the PATH."""

from indomain.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
