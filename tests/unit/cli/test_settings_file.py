# SPDX-License-Identifier: Apache-2.0
"""--config FILE: what it may say, what comes before it, and that the file which ships with Penstock says it all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from penstock.clients.cli import main
from penstock.clients.cli.settings_file import keys_of, read_settings
from penstock.runtime.host_policies import HostPolicy
from penstock.runtime.scheduling.limits import GLOBAL, ResourceLimit
from penstock.runtime.settings import Settings

SHIPPED = Path(__file__).resolve().parents[3] / "conf" / "penstock.toml"


class FakeBroker:
    """Keeps the settings it was given, and ends at once."""

    settings: Settings

    def __init__(self, settings: Settings, _on_settled: Any) -> None:
        type(self).settings = settings

    def run(self) -> None:
        pass


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeBroker]:
    monkeypatch.setattr("penstock.runtime.broker.Broker", FakeBroker)
    monkeypatch.setattr("penstock.clients.cli.serving.log_to_stderr", lambda _level: None)
    monkeypatch.delenv("PENSTOCK_ADDRESS", raising=False)
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(tmp_path / "run"))
    return FakeBroker


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "penstock.toml"


def penstock(command: str, file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [command, str(file.parent), "--config", str(file), *arguments])


def options(command: str) -> dict[str, click.Option]:
    assert isinstance(main, click.Group)
    found = main.get_command(click.Context(main), command)
    assert found is not None
    return keys_of(found)


def uncommented(text: str) -> str:
    """The file with every default put into force."""
    return "\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line)


def test_the_shipped_file_changes_nothing(file: Path, broker: type[FakeBroker]) -> None:
    file.write_text(SHIPPED.read_text())
    assert penstock("serve", file, "--address", "unix:///a").exit_code == 0
    assert broker.settings == Settings(repositories=(str(file.parent),), addresses=("unix:///a",))


@pytest.mark.parametrize("command", ["serve", "broker"])
def test_the_shipped_file_names_every_option_with_its_default(command: str, file: Path, broker: type[FakeBroker]) -> None:
    file.write_text(uncommented(SHIPPED.read_text()))
    found = read_settings(file, options(command))
    assert set(found) == {option.name for option in options(command).values()}
    assert penstock(command, file, "--address", "unix:///a").exit_code == 0
    expected = Settings(repositories=(str(file.parent),), addresses=("unix:///a",), spawn_workers=command == "serve")
    assert broker.settings == expected
    for option in options(command).values():
        if not option.multiple and not option.is_flag:
            assert found[str(option.name)] == option.default


def test_what_is_no_setting_is_no_key() -> None:
    assert not {"json", "parent", "config", "help", "repositories"} & set(options("serve"))
    assert set(options("serve")) == set(options("broker"))


def test_flag_before_environment_before_file_before_default(
    file: Path, broker: type[FakeBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("drain_s = 1\nkill_s = 1\nlease_s = 1\n")
    monkeypatch.setenv("PENSTOCK_DRAIN_S", "2")
    monkeypatch.setenv("PENSTOCK_KILL_S", "2")
    assert penstock("serve", file, "--drain-s", "3").exit_code == 0
    settings = broker.settings
    assert (settings.drain_s, settings.kill_s, settings.lease_s) == (3.0, 2.0, 1.0)
    assert settings.max_execution_s == 300.0


def test_the_order_of_the_flags_does_not_matter(file: Path, broker: type[FakeBroker]) -> None:
    file.write_text("drain_s = 1\n")
    CliRunner().invoke(main, ["serve", "--drain-s", "3", "--config", str(file), str(file.parent)])
    assert broker.settings.drain_s == 3.0


def test_flags_and_lists_can_be_set(file: Path, broker: type[FakeBroker], monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('address = ["unix:///a", "ipc:///b"]\nisolate_system_regions = true\nfallback = "cpu"\n')
    assert penstock("serve", file).exit_code == 0
    assert broker.settings.addresses == ("unix:///a", "ipc:///b")
    assert broker.settings.isolate_system_regions and broker.settings.gpu_fallback
    monkeypatch.setenv("PENSTOCK_ADDRESS", "unix:///c")
    penstock("serve", file)
    assert broker.settings.addresses == ("unix:///c",)


def test_host_policies_can_be_set(file: Path, broker: type[FakeBroker]) -> None:
    cpu = min(os.sched_getaffinity(0))
    file.write_text(f'host_policy = ["cpu,cpu-cores={cpu}", "other,cpu-cores={cpu}-{cpu}"]\n')
    assert penstock("serve", file).exit_code == 0
    assert broker.settings.host_policies == {"cpu": HostPolicy((cpu,)), "other": HostPolicy((cpu,))}


def test_the_rate_limiter_and_its_resources(file: Path, broker: type[FakeBroker], monkeypatch: pytest.MonkeyPatch) -> None:
    file.touch()
    assert penstock("serve", file).exit_code == 0
    assert (broker.settings.rate_limit, broker.settings.resource_limits) == (False, ())
    file.write_text('rate_limit = "execution_count"\nrate_limit_resource = ["R1:4", "R2:1:0"]\n')
    assert penstock("serve", file).exit_code == 0
    assert broker.settings.rate_limit
    assert broker.settings.resource_limits == (ResourceLimit("R1", 4), ResourceLimit("R2", 1, 0))
    monkeypatch.setenv("PENSTOCK_RATE_LIMIT_RESOURCE", "R3:2:global R4:1")
    penstock("serve", file)
    assert broker.settings.resource_limits == (ResourceLimit("R3", 2, GLOBAL), ResourceLimit("R4", 1))
    monkeypatch.setenv("PENSTOCK_RATE_LIMIT_RESOURCE", "R3")
    refused = penstock("serve", file)
    assert refused.exit_code == 2
    assert "--rate-limit-resource must be NAME:COUNT, NAME:COUNT:DEVICE or NAME:COUNT:global" in refused.output


def test_the_environment_can_name_the_file(file: Path, broker: type[FakeBroker], monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("drain_s = 1\n")
    monkeypatch.setenv("PENSTOCK_CONFIG", str(file))
    assert CliRunner().invoke(main, ["serve", str(file.parent)]).exit_code == 0
    assert broker.settings.drain_s == 1.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_inflight = 5", "unknown key 'max_inflight'; did you mean 'max_in_flight'?"),
        ("drain-s = 5", "unknown key 'drain-s'; did you mean 'drain_s'?"),
        ("zzzzzz = 1", "unknown key 'zzzzzz'; known are address, "),
        ("json = true", "unknown key 'json'"),
        ("[serve]\ndrain_s = 1", "unknown key 'serve'"),
        ("max_in_flight = 1.5", "max_in_flight must be a whole number, got 1.5"),
        ("max_in_flight = true", "max_in_flight must be a whole number, got True"),
        ('drain_s = "1"', "drain_s must be a number, got '1'"),
        ("strict = 1", "strict must be true or false, got 1"),
        ("fallback = 1", "fallback must be a string, got 1"),
        ('address = "unix:///a"', "address must be an array of strings, got 'unix:///a'"),
        ("drain_s = ", "penstock.toml: "),
    ],
)
def test_a_mistake_is_fatal_and_named(text: str, complaint: str, file: Path) -> None:
    file.write_text(text)
    shown = penstock("serve", file)
    assert shown.exit_code == 2
    assert complaint in shown.stderr and str(file) in shown.stderr


@pytest.mark.parametrize("text", ["max_in_flight = 0", "drain_s = -1", 'fallback = "tpu"', 'log_level = "loud"'])
def test_values_out_of_range_are_refused_like_flags(text: str, file: Path) -> None:
    file.write_text(text)
    shown = penstock("broker", file)
    assert shown.exit_code == 2
    assert f"--{text.partition(' ')[0].replace('_', '-')}" in shown.stderr


def test_a_missing_file_is_fatal(file: Path) -> None:
    assert penstock("serve", file).exit_code == 2
