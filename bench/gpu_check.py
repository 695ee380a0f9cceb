# SPDX-License-Identifier: Apache-2.0
"""`make gpu-check`: the tests that need a GPU, then the figures of bench/gpu.py, from the source tree. Installs nothing.

    make gpu-check [PYTHON=python3] [WHEELS=FOLDER] [RESULTS=FOLDER]

It runs with the packages that the interpreter has. Those that it lacks can lie as wheels in a folder, which are unpacked under
build/gpu-check and used from there. torch, TensorRT, onnxruntime-gpu and cupy are used where they are there. gpu.json and
gpu.md come into RESULTS, else into build/gpu-check, and grow with each part that was measured.

Exit status: 0 everything passed and was measured; 1 something failed, or could not be run; 2 there is no GPU, or this
interpreter cannot run Penstock: nothing was proven. It ends within 8 minutes.

Only the standard library is imported here: what is missing is to be said, and not to be tripped over.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("ipc", "runtime", "workers", "clients", "model_repository", "conf")

PASSED, FAILED, NO_GPU = 0, 1, 2
OLDEST_PYTHON = (3, 10)
TOTAL_S = 480.0
SURVEY = """
import json
from penstock.workers.survey import survey
found = survey()
print(json.dumps({**{name: getattr(found, name) for name in ("reason", "driver", "runtime")}, "found": [
    {"ordinal": gpu.ordinal, "uuid": gpu.uuid, "name": gpu.name, "byte_size": gpu.total_bytes} for gpu in found.found]}))
"""
SURVEY_S = 60.0
TESTS_S, TEST_S = 200.0, 60.0
SPARE_S = 15.0
"""Between the end of the bench, which is told how long it has, and that of everything."""

RESULTS = ("gpu.json", "gpu.md")

NEEDED = {
    "numpy": "numpy", "zmq": "pyzmq", "msgpack": "msgpack", "msgspec": "msgspec", "posix_ipc": "posix-ipc", "click": "click",
    "google.protobuf": "protobuf", "tritonclient": "tritonclient", "cuda.bindings": "cuda-bindings (cuda-python)",
}  # fmt: skip
"""Module -> the distribution that has it. tritonclient holds the schema of config.pbtxt, and is used for nothing else."""
USED = {"torch": "torch", "tensorrt": "tensorrt", "onnxruntime": "onnxruntime", "cupy": "cupy", "onnx": "onnx"}
FOR_TESTS = {"pytest": "pytest", "rich": "rich"}

INI = f"""[pytest]
addopts = -q --strict-markers -ra --durations=10 --continue-on-collection-errors -p no:cacheprovider -m gpu
faulthandler_timeout = {TEST_S:g}
markers = gpu: needs an NVIDIA GPU
"""
"""The tree's own settings name options of plugins that need not be there, and make errors of what torch or cupy warn of. Of a
test that hangs pytest shows at least where."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs everything; returns the exit status."""
    parser = argparse.ArgumentParser("gpu_check.py", description="The GPU tests and figures, from the source tree.")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels of packages that this interpreter lacks")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "gpu-check", help="where that goes")
    parser.add_argument("--results", type=Path, help="where the results go; there, too, unless told otherwise")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is what the interpreter made
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))  # what runs is ended
    begun = time.monotonic()
    if sys.version_info < OLDEST_PYTHON:
        return _nothing(
            f"needs Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer, and {sys.executable} is {sys.version.split()[0]}"
        )
    build = options.build.resolve()
    environment = prepare(build, options.wheels)
    missing = missing_of(NEEDED, environment)
    if missing:
        return _nothing(
            f"{sys.executable} lacks {', '.join(missing)}; put their wheels into a folder: make gpu-check WHEELS=FOLDER"
        )
    broken = refusal(environment, build)
    if broken:
        return _nothing(f"{sys.executable} has packages that do not work here: {broken}; newer ones can come as wheels, too")
    gpus = survey(environment, build)
    if not gpus.get("found"):
        return _nothing(f"no GPU: {gpus.get('reason', 'the survey said nothing')}")
    if any(gpu["name"].startswith("Simulated") for gpu in gpus["found"]):
        return _nothing("no GPU: only a simulation, which proves nothing about one")
    _say_what_there_is(gpus, environment)
    tests = run_tests(environment, build)
    results = (options.results or build).resolve()
    bench = run_bench(environment, results, TOTAL_S - SPARE_S - (time.monotonic() - begun))
    if (results / RESULTS[0]).exists():
        print(f"\nfigures: {', '.join(str(results / name) for name in RESULTS)}")
    print(f"\ngpu-check: tests {tests}, bench {bench}, {time.monotonic() - begun:.0f} s")
    return PASSED if (tests, bench) == ("passed", "measured") else FAILED


def prepare(build: Path, wheels: Path | None) -> dict[str, str]:
    """Fills the folder: the namespace package, as links, and the wheels' content. Returns the environment that uses it."""
    unpacked, info = build / "wheels", build / "penstock-0.dist-info"
    for mine in (build / "penstock", unpacked, info):
        shutil.rmtree(mine, ignore_errors=True)  # links are removed, and not followed
    (build / "penstock").mkdir(parents=True)
    for name in LINKED:
        (build / "penstock" / name).symlink_to(ROOT / name, target_is_directory=True)
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: penstock\nVersion: {version[1]}\n", encoding="utf-8")
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
        with zipfile.ZipFile(wheel) as content:
            content.extractall(unpacked)
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [str(build), *([str(unpacked)] if unpacked.exists() else []), *before]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def missing_of(modules: dict[str, str], environment: dict[str, str]) -> list[str]:
    """The distributions whose modules cannot be found in that environment."""
    program = (
        "import importlib.util, sys\n"
        "def has(name):\n"
        "    try: return importlib.util.find_spec(name) is not None\n"
        "    except ImportError: return False\n"
        "print(*[name for name in sys.argv[1:] if not has(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *modules], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return [modules[name] for name in done.stdout.split()]


def refusal(environment: dict[str, str], build: Path) -> str:
    """What keeps Penstock from being imported: a protobuf older than tritonclient's schema, for one. "": nothing does."""
    program = "import penstock.clients, penstock.runtime.broker, penstock.workers.main"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=build, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]


def survey(environment: dict[str, str], build: Path) -> dict[str, Any]:
    """What workers would find, asked in a process of its own, since a driver may hang."""
    command = [sys.executable, "-c", SURVEY]
    try:
        done = subprocess.run(
            command, env=environment, cwd=build, capture_output=True, text=True, timeout=SURVEY_S, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2] or "{}")
    except subprocess.TimeoutExpired:
        return {"reason": f"CUDA said nothing within {SURVEY_S:g} s"}
    except ValueError as error:
        return {"reason": f"the survey printed no JSON: {error}"}
    return found or {"reason": done.stderr.strip().rpartition("\n")[2] or f"the survey ended with status {done.returncode}"}


def run_tests(environment: dict[str, str], build: Path) -> str:
    """tests/gpu and what else is marked `gpu`; "passed", or what became of it."""
    missing = missing_of(FOR_TESTS, environment)
    if missing:
        print(f"\ntests: not run, for want of {', '.join(missing)}")
        return "not run"
    print("\n--- tests", flush=True)
    ini = build / "pytest.ini"
    ini.write_text(INI, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-c", str(ini), "--rootdir", str(ROOT)]
    # First what everything else stands on, and takes least.
    command += [str(path) for path in sorted((ROOT / "tests" / "contract").glob("test_*.py")) if _knows_the_device(path)]
    command.append(str(ROOT / "tests" / "gpu"))
    if not missing_of({"pytest_timeout": "pytest-timeout"}, environment):
        command += ["--timeout", f"{TEST_S:g}"]  # so that a test that hangs is named
    status = _run(command, environment, TESTS_S)
    return {0: "passed", None: f"not done within {TESTS_S:g} s"}.get(status, f"failed (pytest's exit status {status})")


def _knows_the_device(path: Path) -> bool:
    """Whether a contract test is told over the real device too. The others need packages that this interpreter may not have."""
    text = path.read_text(encoding="utf-8")
    return "mark.gpu" in text or "cuda_rig" in text


def run_bench(environment: dict[str, str], results: Path, budget_s: float) -> str:
    """bench/gpu.py; "measured", or what became of it."""
    print("\n--- bench", flush=True)
    for name in RESULTS:
        (results / name).unlink(missing_ok=True)  # an earlier run's
    command = [
        sys.executable,
        str(ROOT / "bench" / "gpu.py"),
        "--budget-s",
        f"{budget_s:.0f}",
        "--json",
        str(results / RESULTS[0]),
    ]
    status = _run(command, environment, budget_s + SPARE_S / 2)
    if status is None and (results / RESULTS[1]).exists():
        print((results / RESULTS[1]).read_text(encoding="utf-8"))
    return {0: "measured", None: f"not done within {budget_s:.0f} s"}.get(status, f"failed (exit status {status})")


def _run(command: Sequence[str], environment: dict[str, str], limit_s: float) -> int | None:
    """The exit status; None where it took longer, and was ended with all that it started."""
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # pytest reports what it has; brokers are stopped
            try:
                process.wait(SPARE_S / 3)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _say_what_there_is(gpus: dict[str, Any], environment: dict[str, str]) -> None:
    for gpu in gpus["found"]:
        print(f"GPU {gpu['ordinal']}: {gpu['name']}, {gpu['uuid']}, {gpu['byte_size'] / 2**30:.0f} GiB")
    print(f"driver for CUDA {gpus['driver']}, cuda-python for {gpus['runtime']}, Python {sys.version.split()[0]}")
    absent = missing_of(USED, environment)
    print(
        f"not there, and so not covered: {', '.join(absent)}"
        if absent
        else "torch, TensorRT, onnxruntime, cupy and onnx are there"
    )


def _nothing(why: str) -> int:
    print(f"gpu-check: {why}. Nothing was proven.")
    return NO_GPU


if __name__ == "__main__":
    sys.exit(main())
