"""The runtimes that can run a graph in this process, and which of them runs each."""
