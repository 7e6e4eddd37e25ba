"""Where the contract's methods are over HTTP. Shared by the SDK and the gateway."""

from __future__ import annotations

import re


def http_route(method: str) -> tuple[str, str]:
    """`WatchInvert` -> `("POST", "/v1/watch-invert")`; `ListBundles` reads nothing and is a GET."""
    if method == "ListBundles":
        return "GET", "/v1/bundles"
    return "POST", "/v1/" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", method).lower()
