"""HTTP: the middleware that takes each request through its lifecycle, routes, event streams, OpenAPI and the studio."""
