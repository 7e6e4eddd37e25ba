"""The studio's files over HTTP. What the page does is looked at in a browser: tests/clients/test_studio.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from serving.access.keys import make_key
from tests.serving.running_gateway import RunningGateway

WEB = Path(__file__).resolve().parents[3] / "clients/web"


def test_the_page_is_served_with_all_that_it_names(gateway: RunningGateway) -> None:
    page = gateway.http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    named = re.findall(r'(?:href|src)="(studio/[^"]+)"', page.text)
    assert len(named) >= 4
    modules = [f"studio/{file.relative_to(WEB)}" for file in WEB.rglob("*.js")]
    types = {"js": "javascript", "css": "text/css", "svg": "image/svg+xml", "woff2": "font/woff2"}
    for name in {*named, *modules}:
        answer = gateway.http.get(f"/{name}")
        assert answer.status_code == 200, name
        assert types[name.rpartition(".")[2]] in answer.headers["content-type"], name


def test_browsers_ask_whether_a_file_is_still_the_same(gateway: RunningGateway) -> None:
    for path in ("/", "/studio/page.js"):
        first = gateway.http.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = gateway.http.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == "no-cache"
    assert gateway.http.head("/").status_code == 200


def test_the_policy_of_the_page_allows_no_inline_code_and_no_other_host(gateway: RunningGateway) -> None:
    policy = gateway.http.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "require-trusted-types-for 'script'" in policy
    page = gateway.http.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)


@pytest.mark.parametrize(
    "path",
    [
        "/studio/",
        "/studio/nothing.js",
        "/studio/../pyproject.toml",
        "/studio/%2e%2e/proto",
        "/studio/a%00.js",
    ],
)
def test_nothing_but_the_pages_files_is_served(gateway: RunningGateway, path: str) -> None:
    answer = gateway.http.get(path)
    assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")


def test_the_page_takes_no_key_and_tells_none(
    start_gateway: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    make_key(tmp_path / "keys.toml", "page")
    running = start_gateway(keys_file=tmp_path / "keys.toml")
    assert running.http.get("/").status_code == 200
    assert running.http.get("/studio/page.js").status_code == 200
    assert running.http.get("/v1/bundles").status_code == 401


def test_the_studio_can_be_left_out(start_gateway: Callable[..., RunningGateway]) -> None:
    running = start_gateway(studio=False)
    assert httpx.get(f"{running.url}/").headers["location"] == "/docs"
    assert httpx.get(f"{running.url}/studio/page.js").status_code == 404
