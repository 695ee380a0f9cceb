# SPDX-License-Identifier: Apache-2.0
"""What a GPU does here by itself, and what of it arrives at a client: raw floors, then the served path against them.

Served and raw side measure by turns, in one run; figures are medians of the turns. Requests are distinct, outputs are poisoned
before and verified after. `make gpu-check` runs this after the tests; what must hold is printed with what was measured.

    gpu.py [--json FILE] [--budget-s S]      on a GPU; the table goes to standard output, and beside FILE as .md
    gpu.py --rehearse                        on the simulation of the tests, at tiny sizes: to see that it runs. Nothing else.

`floors`: a chain of small kernels one by one and as a graph, copies, waits, pinning, IPC. `latency`: one request after the
other; beyond_infer is what is left without the model's own time, beyond_raw what the raw loop does not need. `full_load`: one
instance kept busy, against the raw loop kept busy. `throughput`: a model of small kernels as 1 to 3 processes, with MPS, and
as lanes. `overlap`: copies in streams of their own, and not. `regions`: what a client pays for a new one. `memory`: what each
worker holds of the GPU.

A part that fails, or for which no time is left, is named with the reason, and costs the others nothing. JSON and table are
written anew after each part: what ends this early leaves what was measured until then.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from measurement import Row, machine
from on_gpu import models, report
from on_gpu.questions import SHARED, full_load, latency, regions, say, sharing
from on_gpu.raw_side import Raw
from on_gpu.scale import Scale
from server import Server, serving

from penstock.clients import Client
from penstock.ipc.errors import PenstockError
from penstock.workers.devices.cuda import Device
from penstock.workers.survey import survey

HERE = Path(__file__).resolve().parent
BUDGET_S = 280.0
LOAD_S, FLOORS_S, OVERLAP_S = 90.0, 60.0, 60.0


def add_models(repository: Path, folder: Path, networks: Sequence[models.Network]) -> list[str]:
    """Fills the repository; the names of its entries."""
    entries = []
    for network in networks:
        for busy, rest in models.BUSY.items():
            models.add_entry(repository, f"{network.name}_{busy}", network, folder, rest=rest)
            entries.append(f"{network.name}_{busy}")
    for entry, (how, instances) in SHARED.items():
        shape = {"lanes": instances} if how == "lanes" else {"count": instances}
        models.add_entry(repository, entry, networks[-1], folder, rest=models.BUSY["auto"], **shape)
        entries.append(entry)
    return entries


def load(server: Server, device: Device, entries: Sequence[str], scale: Scale) -> list[Row]:
    """Loads entries; what they take of the GPU's memory, per worker."""
    with Client(server.links["local"]) as client:
        return _loaded(client, device, entries, scale)


def _loaded(client: Client, device: Device, entries: Sequence[str], scale: Scale) -> list[Row]:
    free, workers = device.memory()[0], len(_workers(client))
    for entry, why in load_together(client, entries).items():
        scale.leave_out(f"loading {entry}", why)
    added = len(_workers(client)) - workers
    if not added:
        return []
    row = {"models": ", ".join(entries), "workers": added}
    row["mib_per_worker"] = round((free - device.memory()[0]) / 2**20 / added, 1)
    say("memory", row)
    return [row]


def load_together(client: Client, entries: Sequence[str]) -> dict[str, str]:
    """Loads entries side by side; why it could not be done, of each for which it could not."""
    reasons = {}
    with ThreadPoolExecutor(len(entries)) as threads:
        loads = {entry: threads.submit(client.load, entry, timeout_s=LOAD_S) for entry in entries}
        for entry, loaded in loads.items():
            try:
                loaded.result()
            except PenstockError as error:
                reasons[entry] = error.message
    return reasons


def _workers(client: Client) -> set[int]:
    return {int(instance["pid"]) for instance in client.status()["instances"]}


@contextmanager
def broker(repository: Path, mps: str, scale: Scale) -> Iterator[Server]:
    """A broker that loads nothing by itself. Of what it says, what explains figures is kept."""
    with serving(repository, "--mps", mps, "--control-mode", "explicit") as server:
        yield server
        said = server.said()
        scale.left_out += [line for line in said.splitlines() if "no CUDA graphs" in line or "warning" in line]
        if scale.has_failed:
            print(f"--- the broker said, with --mps {mps}:\n{said}---", file=sys.stderr, flush=True)


def measure(device: Device, scale: Scale, figures: report.Figures, backends: Sequence[str]) -> None:
    """Everything that this machine and the time allow."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, ExitStack() as held:
        folder, repository = Path(name), Path(name, "models")
        figures.put("floors", floors(scale))
        networks = available(folder, scale, backends)
        entries = add_models(repository, folder, networks)
        raws = [Raw(network, folder) for network in networks]
        with scale.optional("what a broker serves"), broker(repository, "off", scale) as server:
            weigh(server, device, entries, scale, figures)
            for raw in raws:
                held.enter_context(raw)  # not before: what it holds of the GPU is no worker's
            scale.attempt("raw sides", 30.0, lambda: [raw.wait() for raw in raws])
            ask(server, raws, entries, scale, figures)
        apart = partial(overlapping, folder, scale, models.CONVNET in networks)
        figures.add("overlap", scale.attempt("copies in streams of their own", OVERLAP_S / 2, apart))
        figures.add("throughput", scale.attempt("MPS", 35.0, lambda: with_mps(repository, raws[-1], scale)))


def available(folder: Path, scale: Scale, backends: Sequence[str]) -> list[models.Network]:
    """The networks whose files could be made here; the last is the one that several instances share a GPU with."""

    def why_not(kind: str, backend: str) -> str:
        if scale.is_rehearsal:
            return "not on a simulation"
        return models.build(folder, kind) if backend in backends else f"no {backend} that can use a GPU is installed"

    found, without_torch = [models.IDENTITY], why_not("torch", "pytorch")
    if without_torch:
        scale.left_out.append(f"convnet and chain: {without_torch}")
    else:
        found += [models.CONVNET, models.CHAIN]
    without_plan = why_not("plan", "tensorrt") if not without_torch or scale.is_rehearsal else "it is made with torch"
    if without_plan:
        scale.left_out.append(f"plan: {without_plan}")
    else:
        found.insert(1, models.PLAN)
    return found


def weigh(server: Server, device: Device, entries: Sequence[str], scale: Scale, figures: report.Figures) -> None:
    """Loads everything: what is weighed by itself first."""
    alone = [entry for entry in entries if entry.endswith("_auto")] + ["chain_lanes_3"]
    others = [entry for entry in entries if entry not in alone]
    for group, needed_s in [*(([entry], 20.0) for entry in alone), (others, 40.0)]:
        work = partial(load, server, device, group, scale)
        figures.add("memory", scale.attempt(f"loading {', '.join(group)}", needed_s, work))


def ask(server: Server, raws: Sequence[Raw], entries: Sequence[str], scale: Scale, figures: report.Figures) -> None:
    """What is measured without MPS, the goals first. Each part has its own client, which goes when the part is broken off."""

    def put(name: str, what: str, needed_s: float, question: Callable[[Client], list[Row]]) -> None:
        def asked() -> list[Row]:
            with Client(server.links["local"]) as client:
                return question(client)

        figures.add(name, scale.attempt(what, needed_s, asked))

    images = [raw for raw in raws if raw.network.inputs == models.IMAGE]
    for raw in sorted(images, key=lambda raw: not raw.network.file):  # identity has no goals
        for batch in scale.batches:
            part = f"{raw.network.name} at batch {batch}"
            put("latency", f"latency of {part}", 12.0, partial(latency, raw=raw, batch=batch, scale=scale))
            put("full_load", f"full load of {part}", 8.0, partial(full_load, raw=raw, batch=batch, scale=scale))
    shared = [entry for entry in entries if entry in SHARED]
    put("throughput", "several instances", 20.0, partial(sharing, entries=shared, raw=raws[-1], scale=scale, mps=False))
    put("regions", "regions", 10.0, partial(regions, raw=raws[0], scale=scale))


def with_mps(repository: Path, raw: Raw, scale: Scale) -> list[Row]:
    """The same models as processes that share the GPU through MPS; nothing where it cannot be had."""
    entries = [entry for entry, (how, _) in SHARED.items() if how != "lanes"]
    with broker(repository, "on", scale) as server, Client(server.links["local"]) as client:
        refused = load_together(client, entries)
        if len(refused) == len(entries):
            scale.left_out.append(f"processes with MPS: {refused[entries[0]]}")
            return []
        return sharing(client, [entry for entry in entries if entry not in refused], raw, scale, True)


def overlapping(folder: Path, scale: Scale, has_torch: bool) -> list[Row]:
    """A lane's work in one stream or in several."""
    words = [
        str(folder),
        str(scale.seconds / 2),
        str(scale.rounds),
        *map(str, scale.batches),
        *(["--torch"] if has_torch else []),
    ]
    rows, failures = [], []
    for found in _lines_of("overlap.py", OVERLAP_S, scale, *words):
        rows.append(found) if "failed" not in found else failures.append(found["failed"])
    for why in failures:
        scale.leave_out("copies in streams of their own", why)
    for row in rows:
        say("overlap", row)
    return rows


def floors(scale: Scale) -> Row:
    """The raw figures; what cannot be had is left out."""
    found: Row = {}
    for part in _lines_of("floors.py", FLOORS_S, scale, *(["--quick"] if scale.is_rehearsal else [])):
        for name, figures in part.items():
            if isinstance(figures, dict) and "failed" in figures:
                scale.leave_out(f"raw {name}", figures["failed"])
            else:
                found[name] = figures
                print("raw", name, json.dumps(figures), flush=True)
    return found


def _lines_of(program: str, limit_s: float, scale: Scale, *words: str) -> list[Row]:
    """The lines of JSON that a program of on_gpu printed; those until then, where it fails or takes too long."""
    command = [sys.executable, str(HERE / "on_gpu" / program), *words]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=limit_s)
        printed, why = done.stdout, f"it ended with status {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired as expired:
        printed, why = expired.stdout or b"", f"not done within {limit_s:g} s"
    if why:
        scale.leave_out(f"the rest of {program}", why)
    return [json.loads(line) for line in printed.splitlines() if line.startswith(b"{")]


def main() -> int:
    """Measures, prints the table, writes the JSON. The exit status says whether something failed; goals are for reading."""
    parser = argparse.ArgumentParser(description="Figures of a GPU, raw and served; see the file's head.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--budget-s", type=float, default=BUDGET_S)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    found = survey()
    is_simulated = any(gpu.is_simulated for gpu in found.found)
    if not found.found or is_simulated != args.rehearse:
        why = found.reason or ("this is a simulation, see --rehearse" if is_simulated else "--rehearse needs the simulation")
        print(f"nothing was measured: {why}", file=sys.stderr)
        return 2
    if args.rehearse and args.json and args.json.resolve().is_relative_to(HERE / "results"):
        print("a rehearsal's figures say nothing, and are no results", file=sys.stderr)
        return 2
    scale = Scale(args.rehearse, args.budget_s)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.rehearse:
        print(report.REHEARSAL, flush=True)
    with Device(0, blocking=True) as device:
        gpu = device.info
        facts = {"name": gpu.name, "uuid": gpu.uuid, "memory_gib": round(gpu.total_bytes / 2**30, 1)}
        facts |= {"driver": found.driver, "runtime": found.runtime}
        head = {"rehearsal": report.REHEARSAL if args.rehearse else "", "machine": machine(), "device": facts}
        figures = report.Figures(head, scale.left_out, args.json)
        try:
            measure(device, scale, figures, found.backends)
            figures.complete()
        except KeyboardInterrupt:
            scale.leave_out("the rest", "it was ended from outside")
        except Exception as error:  # noqa: BLE001 - what was measured until then is reported
            traceback.print_exc()
            scale.leave_out("the rest", f"{type(error).__name__}: {error}")
    figures.save()
    print(f"\n{figures.text()}", flush=True)
    return 1 if scale.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
