# SPDX-License-Identifier: Apache-2.0
"""`penstock report` as a user runs it: what it writes where, what it says, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_documents import offline, run

from penstock.clients.perf.run_file import write_run

TIMEOUT_S = 60


SAMPLES = Path(__file__).resolve().parents[2] / "model_repository"
FEW = ("--measurement-request-count", "12", "--max-trials", "3", "--warmup", "3")


def penstock(*words: object, command: str = "report", **variables: str) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "penstock.clients.cli", command, *map(str, words)]
    environment = {**os.environ, **variables}
    return subprocess.run(command_line, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with a run."""
    folder = tmp_path / "results"
    folder.mkdir()
    write_run(run(), folder / "digits.json")
    return folder


def test_a_folder_of_runs_gets_its_report(results: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `report`")
    done = penstock(results)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{results}/report.html", f"{results}/report.md"]
    assert "46,106.19" in (results / "report.html").read_text(encoding="utf-8")
    drawn = re.findall(r"\((report/.+?\.svg)\)", (results / "report.md").read_text(encoding="utf-8"))
    assert len(drawn) == 4
    assert all((results / file).exists() for file in drawn)


def test_what_perf_keeps_can_be_reported(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `report`")
    # Given what `penstock perf` has measured and written
    words = (
        "digits",
        "--batch-sizes",
        "1",
        "8",
        "--serve",
        SAMPLES,
        "--result-dir",
        tmp_path,
        "--label",
        "Precision=FP32",
        *FEW,
    )
    measured = penstock(*words, command="perf")
    assert measured.returncode == 0, measured.stderr
    # When it is reported
    done = penstock(tmp_path)
    # Then its rows and its labels are there
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| Precision | FP32 |" in text
    results = text.split("### Results")[1].split("### How sure")[0]
    assert re.findall(r"^\| \**(\d+)", results, re.MULTILINE) == ["1", "8"]


def test_making_it_again_does_not_take_the_report_for_a_run(results: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `report`")
    first = penstock(results, "--json")
    assert penstock(results, "--json").stdout == first.stdout
    assert json.loads(first.stdout)["runs"] == ["digits, offline, local link"]


def test_a_file_beside_a_folder_is_compared_with_it_where_the_user_says(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `report`")
    write_run(run(offline(speed=2.0), title="faster"), tmp_path / "other.json")
    done = penstock(results, tmp_path / "other.json", "--output", tmp_path / "out" / "both", "--title", "Both", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["runs"] == ["digits, offline, local link", "faster"]
    assert said["html"] == str(tmp_path / "out" / "both" / "report.html")
    text = Path(said["markdown"]).read_text(encoding="utf-8")
    assert text.startswith("# Both\n")
    assert "## Side by side" in text
    assert not list(results.glob("report*"))


def test_what_cannot_be_reported_is_named(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.json").write_text('{"format": "penstock perf run 1"}')
    for words, code, said in (
        ([tmp_path / "empty"], 1, f"{tmp_path}/empty holds no measurement"),
        ([tmp_path / "x.json"], 1, f"{tmp_path}/x.json is no measurement of penstock perf: "),
        ([tmp_path / "nowhere"], 2, "nowhere' does not exist"),
        ([results, "--output", results / "digits.json"], 2, "is a file"),
        ([], 2, "Missing argument"),
    ):
        done = penstock(*words)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_in_one_sentence(results: Path, tmp_path: Path, package: str) -> None:
    # Given an interpreter in which the package cannot be imported
    (tmp_path / "before" / package).mkdir(parents=True)
    (tmp_path / "before" / package / "__init__.py").write_text(f'raise ImportError("No module named {package!r}")')
    paths = [str(tmp_path / "before"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    # When a report is wanted
    done = penstock(results, PYTHONPATH=os.pathsep.join(filter(None, paths)))
    # Then it says what to install, and writes nothing
    assert done.returncode == 1
    assert done.stderr == (
        f"penstock: UNSUPPORTED: a report needs {package}, which cannot be imported (No module named '{package}'): "
        "pip install 'penstock[report]'\n"
    )
    assert not list(results.glob("report*"))
