"""How requests reach a gateway: gRPC, HTTP with websockets, or a gateway in this process.

A transport sends one request once and raises this package's errors. It knows the messages of the contract and nothing
of calls, results or retries.
"""
