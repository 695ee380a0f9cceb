# SPDX-License-Identifier: Apache-2.0
"""The survey of GPUs: a program that is run once, when somebody needs to know; whatever it does, the broker goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.ipc.gpus import GpuInfo, Gpus, decode_gpus, encode_gpus
from penstock.runtime.gpu_survey import GpuSurvey, LookForGpus

H100 = GpuInfo(0, "GPU-00000000-0000-0000-0000-000000000000", "NVIDIA H100", 80 << 30, (9, 0), "0000:01:00.0", False, False)
FOUND = Gpus((H100,), "", "13.0", "13.0", ("identity",))


class Program:
    """A survey program that does what its Python says, and counts how often it was run."""

    def __init__(self, folder: Path) -> None:
        self._runs = folder / "runs"
        self._runs.write_text("")
        self.times: list[float] = []  # what its clock says next; nothing left: the last again

    def survey(self, does: str, limit_s: float = 20.0) -> GpuSurvey:
        text = f"open({str(self._runs)!r}, 'a').write('x'); import sys; {does}"
        return GpuSurvey((sys.executable, "-c", text), limit_s, self._clock)

    def _clock(self) -> float:
        return self.times.pop(0) if len(self.times) > 1 else self.times[0] if self.times else 0.0

    @property
    def runs(self) -> int:
        return len(self._runs.read_text())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Given a machine that has cuda-python, as far as is looked for before a survey."""
    monkeypatch.setattr("penstock.runtime.gpu_survey.find_spec", lambda _name: object())
    return Program(tmp_path)


class Aside:
    """A helper thread that does its jobs when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, Callable[[Any], None]]] = []

    def run_aside(self, job: Any, then: Callable[[Any], None]) -> None:
        self.jobs.append((job, then))

    def work(self) -> None:
        for job, then in self.jobs:
            then(job.run())
        self.jobs.clear()


def says(gpus: Gpus) -> str:
    return f"print('a library that talks'); sys.stdout.write({encode_gpus(gpus).decode()!r} + chr(10))"


def test_what_a_survey_says_is_what_the_broker_reads() -> None:
    assert decode_gpus(encode_gpus(FOUND)) == FOUND
    assert (FOUND.uuid_of(0), FOUND.uuid_of(1)) == (H100.uuid, None)
    assert FOUND.listed() == "0 (NVIDIA H100, GPU-00000000-0000-0000-0000-000000000000)"
    assert Gpus(reason="no driver").listed() == "none: no driver"


def test_it_is_asked_once(program: Program) -> None:
    survey = program.survey(says(FOUND))

    assert survey.look() == survey.look() == survey.found == FOUND
    assert program.runs == 1
    survey.check_invariants()


def test_that_there_is_none_is_an_answer_too(program: Program) -> None:
    survey = program.survey(says(Gpus(reason="no driver")))

    assert [survey.look().reason, survey.look().reason] == ["no driver", "no driver"]
    assert program.runs == 1


def test_who_needs_to_know_later_hears_of_it_in_the_loop(program: Program) -> None:
    # Given a survey that nobody has needed
    survey, aside, heard = program.survey(says(FOUND)), Aside(), list[Gpus]()

    survey.ask(aside, heard.append)  # type: ignore[arg-type]
    survey.ask(aside, heard.append)  # type: ignore[arg-type]
    assert (heard, program.runs) == ([], 0)
    aside.work()

    assert (heard, program.runs) == ([FOUND, FOUND], 1)
    # And from then on at once
    survey.ask(aside, heard.append)  # type: ignore[arg-type]
    assert (len(heard), aside.jobs) == (3, [])


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("sys.exit('libcuda is of another version')", "the survey exited with status 1: libcuda is of another version"),
        ("import os; os.kill(os.getpid(), 11)", "the survey died (signal 11)"),
        ("print('{}}')", "JSON is malformed: trailing characters (byte 3)"),
        ("", "Input data was truncated"),
    ],
)
def test_a_survey_that_fails_is_a_reason_and_is_tried_again(program: Program, does: str, said: str) -> None:
    survey = program.survey(does)

    assert survey.look() == Gpus(reason=f"GPUs could not be looked for: {said}")
    assert survey.found is None
    survey.look()
    assert program.runs == 2


def test_a_failure_stands_for_as_long_as_it_took(program: Program) -> None:
    """Models on GPUs whose loads wait in line do not each wait for a driver that hangs."""
    survey = program.survey("sys.exit('the driver hangs')")
    program.times = [100.0, 160.0, 160.0, 219.0, 220.0]

    said = [survey.look() for _ in range(3)]
    assert program.runs == 1 and said == [said[0]] * 3
    survey.look()
    assert program.runs == 2


def test_a_survey_that_takes_too_long_is_ended(program: Program) -> None:
    survey = program.survey("import select; select.select([], [], [])", limit_s=0.5)

    assert survey.look().reason == "GPUs could not be looked for: the survey took longer than 0.5 s"


def test_a_broker_that_leaves_waits_for_no_driver(program: Program) -> None:
    survey = program.survey("import select; select.select([], [], [])")
    found: list[Gpus] = []
    helper = threading.Thread(target=lambda: found.append(LookForGpus(survey).run()))
    helper.start()
    while not program.runs:
        helper.join(0.01)

    survey.abandon()
    helper.join(20.0)

    assert "the survey died (signal 9" in found[0].reason
    assert survey.look().reason == "GPUs could not be looked for: the broker is stopping"


def test_a_broker_that_leaves_while_the_survey_is_being_started_ends_it_too(program: Program) -> None:
    survey = program.survey("import select; select.select([], [], [])")
    start = subprocess.Popen

    def start_and_leave(*given: Any, **options: Any) -> subprocess.Popen[bytes]:
        child = start(*given, **options)
        survey.abandon()
        return child

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.runtime.gpu_survey.subprocess.Popen", start_and_leave)
        assert "the survey died (signal 9" in survey.look().reason


def test_where_cuda_python_is_not_installed_nothing_is_run(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.runtime.gpu_survey.find_spec", lambda _name: None)

    assert program.survey(says(FOUND)).look().reason == "cuda-python is not installed: pip install 'penstock[gpu]'"
    assert program.runs == 0
