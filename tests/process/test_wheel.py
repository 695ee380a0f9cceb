# SPDX-License-Identifier: Apache-2.0
"""What a user gets: the wheel, installed, and `penstock demo` run from it in an empty directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("ipc", "runtime", "workers", "clients")
NOT_SOURCES = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "cache")
DEMO_TIMEOUT_S = 100


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as a build leaves files behind; without isolation, as that would need a network."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCES)
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        str(folder / "dist"),
        str(folder / "source"),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with nothing but the installed wheel in it; what Penstock depends on comes from this interpreter."""
    target = wheel.parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def run(installed: Path, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command. PYTHONPATH comes before this interpreter's own Penstock, whichever way that was installed."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PENSTOCK_RUNTIME_DIR": str(directory.parent / "run")}
    command = [sys.executable, str(installed / "bin" / "penstock"), *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=DEMO_TIMEOUT_S
    )


def test_the_wheel_holds_code_types_models_and_configuration(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = {path.relative_to(ROOT).as_posix() for folder in CODE for path in (ROOT / folder).rglob("py.typed")}
    assert len(packages) > len(CODE)
    assert {f"penstock/{path}" for path in packages} <= names
    repositories = (ROOT / "model_repository", ROOT / "clients" / "people_detection" / "repositories")
    files = (path for repository in repositories for path in repository.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {f"penstock/{path.relative_to(ROOT).as_posix()}" for path in files} <= names
    assert "penstock/model_repository/digits/1/model.onnx" in names
    assert "penstock/clients/people_detection/repositories/trtis_model_repo_sample_2/peoplenet/1/model.onnx" in names
    assert "penstock/conf/penstock.toml" in names
    assert {f"penstock/clients/report/templates/{name}" for name in ("page.html", "style.css")} <= names
    (published,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    assert b"checksum = penstock.runtime.agents.checksum:Checksum" in zipfile.ZipFile(wheel).read(published)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top.split("-")[0] for top in tops} == {"penstock"}
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name or "tests/" in name]


def test_what_runs_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    program = "import penstock.ipc.messages as m, penstock.clients as c; print(m.__file__); print(c.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert all(line.startswith(str(installed)) for line in done.stdout.split())


def test_the_demo_runs_from_the_wheel_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(installed, empty, "demo", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["mismatches"] == 0
    assert report["images"] >= 360
    assert report["accuracy"] > 0.97
    assert sum(report["batch_sizes"].values()) > 0
    assert 0 < report["p50_us"] <= report["p99_us"]
    assert report["requests_per_s"] > 0
    left = [path for path in tmp_path.rglob("*") if path.name not in ("empty", "run")]
    assert not left, f"the demo left {left}"
