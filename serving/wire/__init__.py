"""Messages of the contract (clients/proto) <-> jobs and results (serving/jobs.py), and messages as JSON.

The only room that knows both. It checks that bytes can be read as what they should be; the pipeline checks what they mean.
"""
