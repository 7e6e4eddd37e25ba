"""`Client` and `AsyncClient`, their edit sessions, and what both do about failures: retries and outages."""
