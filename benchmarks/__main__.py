"""`python -m benchmarks`, or `make bench`: the table of speeds."""

import tyro

from benchmarks.speed import SpeedConfig, main

main(tyro.cli(SpeedConfig, prog="python -m benchmarks"))
