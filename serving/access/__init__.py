"""Who is let in: API keys, TLS, limits on requests and on the memory that they hold."""
