"""What the image is made of: locked packages with hashes, images by digest, floors above known holes."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.rendered_chart import BASE, ChartError, asked_of_helm, of_kind, render

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-build.lock")
NAMING_IMAGES = ("Dockerfile", "docker-compose.yml", "deploy/helm/values.yaml")
DIGEST = "sha256:" + 32 * "5a"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project(name: str) -> dict[str, Any]:
    """The `project` table of a pyproject.toml."""
    table: dict[str, Any] = tomllib.loads(text(name))["project"]
    return table


def locked(name: str) -> dict[str, Version]:
    """The version of each package in a lock file."""
    return {
        canonicalize_name(package): Version(version)
        for package, version in re.findall(r"^([\w.-]+)==([^\s\\]+)", text(name), flags=re.MULTILINE)
    }


def floor(package: str) -> Version:
    """The lowest version of a package that the gateway asks for."""
    (wanted,) = [r for r in map(Requirement, project("pyproject.toml")["dependencies"]) if r.name == package]
    (lowest,) = [Version(s.version) for s in wanted.specifier if s.operator == ">="]
    return lowest


# --- packages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_is_exact_and_has_hashes(name: str) -> None:
    packages = [
        block for block in re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", text(name))) if block.strip()
    ]
    assert packages
    for block in packages:
        assert re.match(r"[\w.-]+==[\w.!+]+ \\\n    --hash=sha256:[0-9a-f]{64}", block), block


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index_no_host_and_no_folder(name: str) -> None:
    """Packages come from wherever pip is set to look; their hashes say that they are the right ones."""
    assert not re.search(r"(?m)://|index|find-links|trusted-host|file:| @ |^-|^/", text(name))


def test_the_lock_has_what_the_gateway_and_the_sdk_ask_for() -> None:
    """Fails after a change of dependencies: run `make lock`."""
    gateway, sdk = project("pyproject.toml"), project("clients/python/pyproject.toml")
    wanted = [
        *gateway["dependencies"],
        *gateway["optional-dependencies"]["tracing"],
        *sdk["dependencies"],
        *sdk["optional-dependencies"]["cli"],
    ]
    versions = locked("requirements.lock")
    for requirement in map(Requirement, wanted):
        if requirement.name != "indomain-client":
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_the_build_lock_has_what_builds_the_wheels() -> None:
    versions = locked("requirements-build.lock")
    for name in ("pyproject.toml", "clients/python/pyproject.toml"):
        for requirement in map(Requirement, tomllib.loads(text(name))["build-system"]["requires"]):
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_nothing_that_trains_or_builds_is_in_the_image() -> None:
    assert not {"torch", "onnx", "pytest", "setuptools", "pip", "httptools"} & set(
        locked("requirements.lock")
    )


def test_the_image_installs_locked_wheels_only() -> None:
    build = text("Dockerfile").split("\nFROM ")[1].replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) ([^&\n]*)", build)
    assert len(installs) == 4
    for options in installs:
        from_lock = "--require-hashes --only-binary :all: -r requirements" in options
        assert from_lock or "--no-index --no-deps" in options, options


def test_the_lock_is_made_for_the_images_python() -> None:
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)", text("Dockerfile"), flags=re.MULTILINE)
    assert f"--python-version {python} " in text("Makefile")


@pytest.mark.parametrize(
    ("package", "mended"),
    [
        ("h11", "0.16"),  # CVE-2025-43859
        (
            "starlette",
            "1.3.1",
        ),  # CVE-2024-47874, CVE-2025-54121, CVE-2025-62727, CVE-2026-48710, CVE-2026-54283
        ("python-multipart", "0.0.27"),  # CVE-2024-53981, CVE-2026-40347, CVE-2026-42561
        ("protobuf", "6.33.5"),  # CVE-2026-0994
        ("pillow", "13"),  # CVE-2026-96639, CVE-2026-96643, GHSA-5x8w-8jj5-q52h
    ],
)
def test_floors_are_above_known_holes(package: str, mended: str) -> None:
    assert floor(package) >= Version(mended)


# --- images ------------------------------------------------------------------------------------------


@pytest.fixture
def images() -> ModuleType:
    """deploy/images.py, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("images", ROOT / "deploy/images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that name images."""
    for name in NAMING_IMAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Makes PATH lead to a `docker` alone, which runs `program`: Python with the name of the image in `image`."""
    command = folder / "bin/docker"
    command.parent.mkdir()
    lines = [f"#!{sys.executable}", "import hashlib, json, sys", "image = sys.argv[4]", program, ""]
    command.write_text("\n".join(lines), encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent))


def named_images(root: Path) -> set[str]:
    """Every image of others, as the files under `root` name it."""
    dockerfile, compose, values = ((root / name).read_text(encoding="utf-8") for name in NAMING_IMAGES)
    triton = yaml.safe_load(values)["triton"]["image"]
    digest = f"@{triton['digest']}" if triton["digest"] else ""
    return {
        *re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile, flags=re.MULTILINE),
        *re.findall(r"\$\{(?:TRITON|PROMETHEUS|GRAFANA)_IMAGE:-([^}]+)\}", compose),
        f"{triton['repository']}:{triton['tag']}{digest}",
    }


ANSWER = 'print(json.dumps({"digest": "sha256:" + hashlib.sha256(image.encode()).hexdigest()}))'


def test_pinning_gives_every_image_of_others_its_digest(
    images: ModuleType, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path, monkeypatch, ANSWER)
    tags = {image.partition("@")[0] for image in named_images(checkout)}
    digests = images.pin(checkout)
    assert set(digests) == tags
    assert len(tags) == 4
    assert named_images(checkout) == {f"{image}@{digest}" for image, digest in digests.items()}
    services = yaml.safe_load((checkout / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert "@" not in services["gateway"]["image"], "our own is built, not pulled"
    pinned = {name: (checkout / name).read_text(encoding="utf-8") for name in NAMING_IMAGES}
    images.pin(checkout)
    assert pinned == {name: (checkout / name).read_text(encoding="utf-8") for name in NAMING_IMAGES}


def test_pinning_again_follows_a_tag_that_was_moved(
    images: ModuleType, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path, monkeypatch, ANSWER)
    images.pin(checkout)
    monkeypatch.setattr(images, "digest_of", lambda image: DIGEST)
    images.pin(checkout)
    assert {image.partition("@")[2] for image in named_images(checkout)} == {DIGEST}


@pytest.mark.parametrize(
    "program",
    [
        "sys.exit('no route') if 'grafana' in image else " + ANSWER,
        'print(json.dumps({"digest": "sha256:short"}))',
        "print('{}')",
    ],
)
def test_pinning_changes_nothing_unless_every_digest_is_known(
    program: str, images: ModuleType, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path, monkeypatch, program)
    before = named_images(checkout)
    with pytest.raises(RuntimeError):
        images.pin(checkout)
    assert named_images(checkout) == before


def test_images_that_are_pinned_here_are_pinned_by_whole_digests() -> None:
    for image in named_images(ROOT):
        name, _, digest = image.partition("@")
        assert re.search(r":[\w.-]+$", name), "a tag says to readers what the digest is"
        assert re.fullmatch(r"|sha256:[0-9a-f]{64}", digest), image


@pytest.mark.parametrize(("component", "kind"), [("gateway", "Deployment"), ("triton", "StatefulSet")])
def test_the_chart_takes_a_digest_instead_of_a_tag(component: str, kind: str) -> None:
    def image(**chosen: str) -> str:
        values = BASE | {component: {"image": {"repository": "registry.test/it", "tag": "1", **chosen}}}
        (container,) = of_kind(render(values), kind)["spec"]["template"]["spec"]["containers"]
        return str(container["image"])

    assert image(digest="") == "registry.test/it:1"
    assert image(digest=DIGEST) == f"registry.test/it@{DIGEST}"


@pytest.mark.parametrize("digest", ["latest", "sha256:short", f"@{DIGEST}"])
def test_the_chart_refuses_what_is_no_digest(digest: str) -> None:
    with pytest.raises(ChartError, match="HelmValuesError"):
        asked_of_helm("validate", BASE | {"gateway": {"image": {"digest": digest}}})


def test_compose_takes_a_pushed_gateway_by_its_digest() -> None:
    gateway = yaml.safe_load(text("docker-compose.yml"))["services"]["gateway"]
    assert re.fullmatch(r"\$\{GATEWAY_IMAGE:-indomain-gateway:[\d.]+\}", gateway["image"])


def test_docker_is_asked_for_the_digest_of_all_platforms(
    images: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"open({str(tmp_path / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))"
    fake_docker(tmp_path, monkeypatch, f"{program}\n{ANSWER}")
    images.digest_of("a/b:1")
    asked = (tmp_path / "asked").read_text(encoding="utf-8")
    assert asked == "buildx imagetools inspect a/b:1 --format {{json .Manifest}}"


def test_without_docker_pinning_says_so(images: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match="docker"):
        images.digest_of("python:3.11-slim")
