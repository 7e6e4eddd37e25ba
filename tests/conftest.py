"""Which tests run in one process when `make test` shares them out between processes.

A file stays whole, for the sake of its fixtures; so do all that look at the one exported bundle.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)  # before the plugin reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        shared = "exported" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("exported" if shared else str(item.path)))
