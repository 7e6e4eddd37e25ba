"""The commands of `indomain`, one in each module: `add` declares its arguments, `run` does it.

`run` takes the client and the arguments, and returns whether all of it succeeded.
"""
