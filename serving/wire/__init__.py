"""Messages of the contract (clients/proto) <-> jobs and results, and messages as JSON. The only room that knows both.

It checks that bytes can be read as what they should be; the pipeline checks what they mean.
"""
