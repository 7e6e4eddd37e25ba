"""gRPC: the interceptor that takes each call through the request lifecycle, and the service."""
