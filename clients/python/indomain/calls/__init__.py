"""The calls of the service. Each is declared once, as a function that takes the user's arguments and returns the
request to send. Its signature and docstring are also those of the method of `Client` and `AsyncClient`."""
