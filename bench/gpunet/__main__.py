# SPDX-License-Identifier: Apache-2.0
"""GPUNet from its configuration to the tables: exported, converted, compared with torch, served, measured, reported.

usage: bench/gpunet/run.sh [--quick]

What is asked for is said by environment variables, those of NVIDIA's triton/08ms-D among them; README.md lists them. --quick:
small batches and short windows, to see that all of it works; its figures say little.

exit status: 0 done; 1 a step failed; 2 it cannot be had, or a variable says nothing that is known; 3 the converted model's
answers differ from torch's by more than is allowed; 130 interrupted, after what was measured until then was written
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from server import serving

from penstock.clients.cli.children import interrupted_once
from penstock.ipc.errors import CallerError, invalid
from penstock.ipc.gpus import Gpus, decode_gpus

from . import steps
from .refusals import refusals
from .settings import Settings, settings_of

DONE, FAILED, REFUSED, DIFFERS, INTERRUPTED = 0, 1, 2, 3, 130
BENCH = Path(__file__).resolve().parents[1]
SURVEY_S = 60.0


class StepFailed(Exception):  # noqa: N818  # it is named after what happened, as the command line's are
    """A command has ended with this status, after saying why."""

    def __init__(self, step: str, status: int) -> None:
        super().__init__(f"{step} ended with status {status}")
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs everything; returns the exit status."""
    parser = argparse.ArgumentParser("run.sh", description="GPUNet: exported, converted, compared, served, measured, reported.")
    parser.add_argument("--quick", action="store_true", help="small batches and short windows: to see that it works")
    is_quick = parser.parse_args(arguments).quick or os.environ.get("QUICK", "0") not in ("", "0")
    try:
        with interrupted_once():
            return _status(is_quick)
    except KeyboardInterrupt:
        return INTERRUPTED


def _status(is_quick: bool) -> int:
    """Does what is asked for, and says what is wrong."""
    gpus = survey()
    try:
        asked = settings_of(os.environ, bool(gpus.found), is_quick)
        why = refusals(asked, gpus)
        if find_spec("torch") is None:
            why.append("torch is not installed: pip install 'penstock[torch]'")
        if why:
            return _refuse(why)
        run(asked)
    except CallerError as error:
        return _refuse([str(error)])
    except StepFailed as failed:
        say(str(failed))
        return DIFFERS if failed.status == DIFFERS else FAILED
    return DONE


def run(asked: Settings) -> None:
    """Every step, one after the other. Raises StepFailed for the first that fails, and CallerError for a file that is wrong."""
    began = time.monotonic()
    try:
        asked.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid(f"RESULTS_DIR={asked.results} cannot be made: {error.strerror}") from error
    weights = describe(asked)
    notes = [weights, *convert(asked)[-1:]]
    with serving(asked.repository, "--strict", "--log-level", "warning") as server:
        for mode in ("offline", "online"):
            say(f"measuring {mode}")
            steps.run_file(asked, mode).unlink(missing_ok=True)
            try:
                command("perf", steps.perf_command(asked, mode, server.links[asked.link]))
            finally:
                if steps.run_file(asked, mode).exists():
                    steps.note(asked, mode, notes)
    command("report", steps.report_command(asked))
    say(weights)
    say(f"the model is in {asked.repository}")
    say(f"tables and plots are in {asked.results}, after {time.monotonic() - began:.0f} s")


def describe(asked: Settings) -> str:
    """Builds the network here, so that a wrong file is told of before anything else; says its size, and returns its weights."""
    from .model import make  # torch takes seconds to import, and refusals need none of it
    from .network import size_of

    made = make(asked.config, asked.checkpoint)
    size = size_of(made.network)
    say(
        f"GPUNet {asked.variant}: {size.parameters / 1e6:.2f} million parameters, {size.macs / 1e9:.2f} billion "
        f"multiplications for an image of {made.network.resolution} x {made.network.resolution}"
    )
    say(made.weights)
    return made.weights


def convert(asked: Settings) -> list[str]:
    """What was compared, in words: last what was served."""
    say(f"converting to {asked.format} {asked.precision}")
    found: dict[str, Any] = json.loads(command("convert", steps.convert_command(asked), is_read=True))
    compared = list(steps.compared(found))
    for line in compared:
        say(line)
    return compared


def command(step: str, words: Sequence[str], is_read: bool = False) -> str:
    """Runs a command of Penstock's, which talks to the terminal; what it wrote to standard output, if that is to be read.

    Raises StepFailed. Interrupted, by a terminal as it is itself, it is told so and waited for: it writes what it has.
    """
    with subprocess.Popen(words, env=_environment(), stdout=subprocess.PIPE if is_read else None, text=True) as process:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if process.returncode and is_read and output:
        for line in steps.compared(json.loads(output)):
            say(line)
    if process.returncode:
        raise StepFailed(step, process.returncode)
    return output or ""


def survey() -> Gpus:
    """The GPUs of this machine, looked for by a process of its own."""
    words = [sys.executable, "-m", "penstock.workers.survey"]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=SURVEY_S)
    return decode_gpus(done.stdout)


def say(line: str) -> None:
    print(f"gpunet: {line}", flush=True)


def _environment() -> dict[str, str]:
    """Commands find this package, and no broker but ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (str(BENCH), kept.get("PYTHONPATH"))))}


def _refuse(reasons: Sequence[str]) -> int:
    for reason in reasons:
        print(f"gpunet: {reason}", file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
