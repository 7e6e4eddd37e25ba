"""Settings: from the environment and from flags, each with its reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from serving.backends.embedded import available_processors
from serving.settings import Settings
from tests.serving.running_gateway import run_command


def test_environment_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDOMAIN_GRPC_PORT", "9500")
    monkeypatch.setenv("INDOMAIN_BUNDLES", "faces64, cars")
    monkeypatch.setenv("INDOMAIN_MODEL_REPOSITORY", "/models")
    settings = CliApp.run(Settings, cli_args=["--http-port", "9080", "--max-batch-size=4"])
    assert (settings.grpc_port, settings.http_port, settings.max_batch_size) == (9500, 9080, 4)
    assert settings.bundles == ("faces64", "cars")
    assert settings.model_repository == Path("/models")
    assert CliApp.run(Settings, cli_args=["--bundles", "cars"]).bundles == ("cars",)


def test_every_field_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if field.annotation is float:
            assert name.endswith(("_s", "_ms", "_ratio")), name


@pytest.mark.parametrize("flag", [{"grpc_port": 70_000}, {"max_batch_size": 0}, {"default_deadline_s": 0}])
def test_values_out_of_range(flag: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Settings(**flag)


def test_help_is_the_reference() -> None:
    done = run_command("--help")
    assert done.returncode == 0
    assert "--max-picture-pixels" in done.stdout
    assert "before it is decoded" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--grpc-port", "99999"), "INDOMAIN_GRPC_PORT"),
        (("--model-repository", "nowhere"), "INDOMAIN_MODEL_REPOSITORY"),
    ],
)
def test_a_start_that_cannot_be_says_why(flags: tuple[str, str], said: str) -> None:
    done = run_command(*flags)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_processors() -> None:
    assert available_processors() >= 1
