"""The studio: serves the page at `/` and its files (clients/web) as they are.

They hold no secrets and are not generated. The middleware's policy says what the page may load and whom it may call.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.staticfiles import StaticFiles

_FOLDER = Path(__file__).resolve().parents[2] / "clients/web"  # in a checkout and in the image alike
_FILES = "/studio"


class _Files(StaticFiles):
    """Browsers keep the files, and ask each time whether they have changed: the page fits the gateway's version."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        # No file's name has a zero byte; the system's functions raise ValueError at one.
        return ("", None) if "\0" in path else super().lookup_path(path)

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["cache-control"] = "no-cache"
        return response


def add_studio(app: FastAPI) -> None:
    """Serves the page at `/`, and its files below /studio."""
    files = _Files(directory=_FOLDER)

    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.add_api_route("/", page, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount(_FILES, files, name="studio")
