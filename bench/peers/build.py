# SPDX-License-Identifier: Apache-2.0
"""Makes the peers in bench/cache/peers, from public packages only, and starts each of them once to see that it answers.

What is there already is left as it is. A peer that cannot be had here is named with its reason and costs the others nothing.
Nobody has to be root, and nothing outside of that folder changes.

usage: build.py [--only triton|perf_analyzer|mosec]

Exit status: 0 every peer answers; 1 some do not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.analyzer import ANALYZER, AnalyzerFiles, analyzer_environment
from peers.environments import TritonFiles, UnavailableError, mosec_environment, server_environment
from peers.loads import ANY_PERCENT
from peers.repositories import FLOATS, MODELS, row
from peers.servers import CACHED_LOGS, mosec, mosec_scores, penstock, triton, triton_scores

EXPECTED = [float(number) for number in range(FLOATS)]
ATTEMPT_S = 60.0


def build_triton() -> str:
    environment = server_environment()
    environment.build(print)
    files = TritonFiles(environment)
    files.complete()
    with triton(CACHED_LOGS / "build") as served:
        for model in MODELS:
            scores = triton_scores(served.addresses["http"], model, row())
            if len(scores) != MODELS[model] or (model == "identity" and scores != EXPECTED):
                raise UnavailableError(f"{model} answered {scores[:10]} to a row of 0, 1, 2, ...")
        return f"tritonserver {served.version} answers for {', '.join(MODELS)}"


def build_analyzer() -> str:
    """It is tried on Penstock's gateway."""
    files = AnalyzerFiles(analyzer_environment())
    files.build(print)
    with penstock(CACHED_LOGS / "build") as served:
        command = [str(files.program), "-m", "identity", "-u", served.addresses["http"], "-p", "200", "-s", ANY_PERCENT]
        said = subprocess.run(
            [*command, "--shared-memory", "system"],
            env=files.variables(), capture_output=True, text=True, check=False, timeout=ATTEMPT_S,
        )  # fmt: skip
    if said.returncode or "Throughput" not in said.stdout:
        raise UnavailableError(f"perf_analyzer ended with {said.returncode}: {(said.stdout + said.stderr).strip()}")
    return f"perf_analyzer of {ANALYZER} measures"


def build_mosec() -> str:
    mosec_environment().build(print)
    with mosec(CACHED_LOGS / "build") as served:
        scores = mosec_scores(served.addresses["http"])
    if scores != EXPECTED:
        raise UnavailableError(f"mosec answered {scores} instead of {EXPECTED}")
    return f"mosec {served.version} answers"


PEERS: dict[str, Callable[[], str]] = {"triton": build_triton, "perf_analyzer": build_analyzer, "mosec": build_mosec}


def main() -> int:
    parser = argparse.ArgumentParser(description="The peers, in bench/cache/peers.")
    parser.add_argument("--only", choices=PEERS)
    chosen = parser.parse_args().only
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is what the interpreter made
    failed = 0
    for name in [chosen] if chosen else PEERS:
        try:
            print(f"{name}: {PEERS[name]()}")
        except (UnavailableError, OSError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"{name}: not available: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
