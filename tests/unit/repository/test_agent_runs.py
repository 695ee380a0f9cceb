# SPDX-License-Identifier: Apache-2.0
"""Which agent is called when: Triton's two orders, failures, and directories that are handed over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from recording_agents import install, recorder
from texts import IDENTITY

from penstock.ipc.errors import CallerError, Code, ModelError, PenstockError
from penstock.runtime.repository.agent_runs import AgentRun, RunState
from penstock.runtime.repository.agents import AgentModel, AgentSettings
from penstock.runtime.repository.directory import read_model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return install(monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "m"
    made.mkdir()
    return made


def run_of(directory: Path, *settings: AgentSettings) -> AgentRun:
    return AgentRun("m", directory, settings)


def taken(calls: list[str]) -> list[str]:
    found = list(calls)
    calls.clear()
    return found


def agents_text(*settings: AgentSettings) -> str:
    agents = []
    for each in settings:
        parameters = "".join(f'parameters {{ key: "{key}" value: "{value}" }} ' for key, value in each.parameters.items())
        agents.append(f'{{ name: "{each.name}" {parameters}}}')
    return f"model_repository_agents {{ agents [ {', '.join(agents)} ] }}"


# --- the two orders ----------------------------------------------------------------------------------------------------------


def test_load_and_unload_go_forward_and_what_follows_them_backward(calls: list[str], directory: Path) -> None:
    run = run_of(directory, recorder("a"), recorder("b"), recorder("c"))

    assert run.load() == directory
    assert taken(calls) == ["a load", "b load", "c load"]
    run.complete()
    assert taken(calls) == ["c load_complete", "b load_complete", "a load_complete"]
    run.unload()
    assert taken(calls) == ["a unload", "b unload", "c unload"]
    run.check_invariants()
    run.unload_complete()
    assert taken(calls) == ["c unload_complete", "b unload_complete", "a unload_complete"]
    run.check_invariants()


def test_a_model_that_could_not_be_loaded_is_told_backward(calls: list[str], directory: Path) -> None:
    run = run_of(directory, recorder("a"), recorder("b"))
    run.load()
    taken(calls)

    run.fail()

    assert calls == ["b load_fail", "a load_fail"]
    run.check_invariants()


def test_an_agent_that_fails_stops_the_load(calls: list[str], directory: Path) -> None:
    run = run_of(directory, recorder("a"), recorder("b"), recorder("c", fail="load"), recorder("d"))

    with pytest.raises(ModelError) as refused:
        run.load()

    assert refused.value.message == "repository agent 'recorder': ValueError: c does not like m"
    assert calls == ["a load", "b load", "c load", "c load_fail", "b load_fail", "a load_fail"], "and d not at all"
    assert run.state is RunState.FAILED
    run.check_invariants()


def test_an_agent_that_is_not_installed_stops_the_load_too(calls: list[str], directory: Path) -> None:
    run = run_of(directory, recorder("a"), AgentSettings("nobody", {}), recorder("b"))

    with pytest.raises(CallerError) as refused:
        run.load()

    assert refused.value.code is Code.NOT_FOUND
    assert refused.value.message == (
        "repository agent 'nobody': not installed: the entry points of the group penstock.repository_agents are "
        "recorder, stranger, unmakeable"
    )
    assert calls == ["a load", "a load_fail"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stranger", "agent 'stranger': recording_agents:NotAnAgent makes a NotAnAgent, not an Agent"),
        (
            "unmakeable",
            """agent 'unmakeable': recording_agents:Unmakeable cannot be made: ImportError("No module named 'nowhere'")""",
        ),
    ],
)
def test_what_is_published_and_is_no_agent(calls: list[str], directory: Path, name: str, said: str) -> None:
    with pytest.raises(PenstockError) as refused:
        run_of(directory, AgentSettings(name, {})).load()
    assert refused.value.message.endswith(said)


@pytest.mark.parametrize("action", ["load_complete", "unload", "unload_complete"])
def test_an_agent_that_fails_later_is_logged_and_the_others_are_called(
    calls: list[str], directory: Path, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(directory, recorder("a"), recorder("b", fail=action), recorder("c"))
    with caplog.at_level(logging.ERROR):
        run.load()
        run.complete()
        run.unload()
        run.unload_complete()
    assert len(calls) == 3 * 4
    (logged,) = caplog.messages
    assert logged == f"model m: repository agent 'recorder' failed at {action.upper()}"


# --- states ------------------------------------------------------------------------------------------------------------------


def test_what_was_done_is_not_done_again(calls: list[str], directory: Path) -> None:
    run = run_of(directory, recorder("a"))
    run.load()
    for action in (run.complete, run.unload, run.unload_complete):
        action()
        action()
    run.unload()
    run.end()
    assert calls == ["a load", "a load_complete", "a unload", "a unload_complete"]


@pytest.mark.parametrize(
    ("done", "missing"),
    [
        ([], []),
        (["load"], ["a load_fail"]),
        (["load", "complete"], ["a unload", "a unload_complete"]),
        (["load", "complete", "unload"], ["a unload_complete"]),
        (["load", "fail"], []),
    ],
)
def test_a_run_can_be_ended_from_anywhere(calls: list[str], directory: Path, done: list[str], missing: list[str]) -> None:
    run = run_of(directory, recorder("a"))
    for action in done:
        getattr(run, action)()
    taken(calls)
    run.end()
    assert calls == missing
    run.check_invariants()


def test_an_action_out_of_order_is_a_mistake_of_ours(calls: list[str], directory: Path) -> None:
    run = run_of(directory, recorder("a"))
    run.load()
    with pytest.raises(AssertionError, match=r"<AgentRun 'm' loaded \['recorder'\] at .*> cannot become unloading"):
        run.unload()
    run.fail()


# --- directories -------------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_handed_over_is_what_the_others_and_the_reader_see(calls: list[str], tmp_path: Path) -> None:
    directory = tmp_path / "m"
    (directory / "1").mkdir(parents=True)
    written = IDENTITY.replace('"', '\\"').replace("\n", " ") + "max_batch_size: 7"
    agents = agents_text(recorder("a"), recorder("b", write=written), recorder("c"))
    (directory / "config.pbtxt").write_text(f'backend: "from an agent"\n{agents}')

    source = read_model(directory)

    assert source.config.max_batch_size == 7 and source.config.backend == "identity"
    assert source.directory == directory and source.location != directory
    assert (source.location / "1").is_dir() and source.location.stat().st_mode & 0o777 == 0o700
    assert source.agents is not None
    source.agents.end()
    assert not source.location.exists()
    assert calls[-2:] == ["b load_fail", "a load_fail"]


def test_settings_of_the_first_configuration_hold(calls: list[str], tmp_path: Path) -> None:
    directory = tmp_path / "m"
    directory.mkdir()
    written = IDENTITY.replace('"', '\\"').replace("\n", " ") + 'model_repository_agents { agents { name: \\"nobody\\" } }'
    (directory / "config.pbtxt").write_text(agents_text(recorder("a", write=written), recorder("b")))

    source = read_model(directory)

    assert calls == ["a load", "b load"]
    assert source.agents is not None
    source.agents.end()


def test_a_model_that_cannot_be_read_behind_its_agents_leaves_nothing(calls: list[str], tmp_path: Path) -> None:
    directory = tmp_path / "models" / "m"
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(agents_text(recorder("a", write="max_batch_size: -1"), recorder("b")))

    with pytest.raises(CallerError, match="m/config.pbtxt"):
        read_model(directory)

    assert calls == ["a load", "b load", "b load_fail", "a load_fail"]


def test_a_location_must_be_there_and_cannot_change_later(directory: Path) -> None:
    model = AgentModel("m", directory, {})
    with pytest.raises(CallerError, match="its location cannot become .*/nowhere: that is not a directory"):
        model.replace_location(directory / "nowhere")
    model.is_loading = False
    with pytest.raises(PenstockError, match="location can only be updated while it is being loaded"):
        model.replace_location(directory)


def test_an_acquired_directory_is_one_and_goes_with_its_release(directory: Path) -> None:
    model = AgentModel("m", directory, {})
    acquired = model.acquire_directory()
    assert model.acquire_directory() == acquired and acquired.is_dir()
    model.check_invariants()
    model.release()
    model.release()
    assert not acquired.exists()
