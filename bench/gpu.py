# SPDX-License-Identifier: Apache-2.0
"""What a GPU does here by itself, and what of it arrives at a client: raw floors, then the served path against them.

Served and raw side measure by turns, in one run; figures are medians of the turns. Requests are distinct, outputs are poisoned
before and verified after. `make gpu-check` runs this after the tests; what must hold is printed with what was measured.

    gpu.py [--json FILE] [--budget-s S]      on a GPU; the table goes to standard output, and beside FILE as .md
    gpu.py --rehearse                        on the simulation of the tests, at tiny sizes: to see that it runs. Nothing else.

`floors`: a chain of small kernels one by one and as a graph, copies, waits, pinning, IPC. `latency`: one request after the
other; beyond_infer is what is left without the model's own time, beyond_raw what the raw loop does not need. `throughput`: a
model of small kernels as 1 to 3 processes, with MPS, and as lanes. `full_load`: one instance kept busy, against the raw loop
kept busy. `regions`: what a client pays for a new one. `memory`: what each worker holds of the GPU.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measurement import Row, alternate, machine, median_row
from on_gpu import models, report, served
from on_gpu.raw import inputs_of
from server import serving

from penstock.clients import Client
from penstock.ipc.errors import PenstockError
from penstock.workers.devices.cuda import Device
from penstock.workers.survey import survey

HERE = Path(__file__).resolve().parent
BUDGET_S = 280.0
LOAD_S, FLOORS_S = 90.0, 90.0
KEPT_BUSY_BATCHES = (8, 64)
IN_FLIGHT_PER_INSTANCE = 4
REGISTERED_BYTES = 64 << 20
#: entry of the repository -> what the table calls it, instances, whether MPS is on
SHARED = {
    "chain_1": ("one process", 1), "chain_2": ("processes", 2), "chain_3": ("processes", 3), "chain_lanes_2": ("lanes", 2),
    "chain_lanes_3": ("lanes", 3),
}  # fmt: skip


class Scale:
    """How much is measured. A rehearsal is as small as can be."""

    def __init__(self, is_rehearsal: bool, budget_s: float) -> None:
        self.is_rehearsal = is_rehearsal
        self.ends = time.monotonic() + budget_s
        self.rounds, self.seconds = (1, 0.02) if is_rehearsal else (3, 0.2)
        self.batches = (1,) if is_rehearsal else (1, 8, 64)
        self.full_batches = (1,) if is_rehearsal else KEPT_BUSY_BATCHES
        self.registered_bytes = 4 << 20 if is_rehearsal else REGISTERED_BYTES
        #: what there was no time for, or could not be had, each with the reason
        self.left_out: list[str] = []
        self.has_failed = False

    def attempt(self, what: str, needed_s: float, measure: Callable[[], list[Row]]) -> list[Row]:
        """The rows of one part of the whole; none where there is no time, or where it fails, which costs the others nothing."""
        if not self.is_rehearsal and time.monotonic() + needed_s > self.ends:
            self.left_out.append(f"{what}: no time was left")
            return []
        signal.setitimer(signal.ITIMER_REAL, 4 * needed_s)
        try:
            return measure()
        except Exception as error:  # noqa: BLE001 - see above
            traceback.print_exc()
            self.has_failed = True
            self.left_out.append(f"{what}: {type(error).__name__}: {error}")
            return []
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


class Expected(NamedTuple):
    """How the raw side computes a batch size, and what comes out for the inputs of `inputs_of`."""

    mode: str
    outputs: list[served.Array]


class Raw:
    """The raw side of one network, in a process of its own. A context manager."""

    def __init__(self, network: models.Network, folder: Path) -> None:
        command = [sys.executable, str(HERE / "on_gpu" / "raw.py"), network.name, str(folder / network.file)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.network = network
        #: batch size -> what is known of it
        self._prepared: dict[int, Expected] = {}

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # end of file ends it

    def prepare(self, batch: int) -> Expected:
        """Makes it ready for a batch size."""
        if batch not in self._prepared:
            said = self._ask("prepare", batch, 0)
            self._prepared[batch] = Expected(said["mode"], [np.array(outputs, np.float32) for outputs in said["expected"]])
        return self._prepared[batch]

    def measure(self, word: str, batch: int, seconds: float) -> Row:
        """One batch after the other (`wait`), or two in flight (`stream`)."""
        return self._ask(word, batch, seconds)

    def _ask(self, word: str, batch: int, seconds: float) -> Row:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{word} {batch} {seconds}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the raw side ended with exit status {self._process.wait()}; its reason is above")
        answer: Row = json.loads(line)
        return answer


def latency(client: Client, raw: Raw, batch: int, scale: Scale) -> list[Row]:
    """Every way of waiting and kind of memory, of one network and batch size, against the raw loop."""
    network, expected = raw.network, raw.prepare(batch)
    rows, inputs = [], inputs_of(network, batch)
    with ExitStack() as held:
        sides: dict[str, Callable[[], Row]] = {"raw": partial(raw.measure, "wait", batch, scale.seconds)}
        keys = [(busy, kind) for busy in models.BUSY for kind in served.KINDS]
        for busy, kind in keys:
            entry = f"{network.name}_{busy}"
            requests = held.enter_context(served.Requests(client, entry, kind, inputs, expected.outputs))
            served.one_by_one(client, entry, requests, scale.seconds / 4)  # graphs are captured, regions pinned
            sides[f"{busy} {kind}"] = partial(served.one_by_one, client, entry, requests, scale.seconds)
        measured = {name: median_row(found) for name, found in alternate(sides, scale.rounds).items()}
    for busy, kind in keys:
        row = {"model": network.name, "busy_wait": busy, "memory": kind, "batch": batch, **measured[f"{busy} {kind}"]}
        row |= {"raw_mode": expected.mode, "raw_us": measured["raw"]["p50_us"]}
        rows.append(row | {"beyond_raw_us": row["p50_us"] - row["raw_us"]})
        _say("latency", rows[-1])
    return rows


def full_load(client: Client, raw: Raw, batch: int, scale: Scale) -> list[Row]:
    """One instance with enough to do, against the raw loop with enough to do."""
    network, expected = raw.network, raw.prepare(batch)
    entry = f"{network.name}_auto"
    with served.Requests(client, entry, "memfd", inputs_of(network, batch), expected.outputs) as requests:
        sides: dict[str, Callable[[], Row]] = {
            "raw": partial(raw.measure, "stream", batch, 2 * scale.seconds),
            "served": partial(served.together, client, requests, 2 * scale.seconds),
        }
        measured = {name: median_row(found) for name, found in alternate(sides, scale.rounds).items()}
    own, best = measured["served"]["batches_per_s"], measured["raw"]["batches_per_s"]
    row = {"model": network.name, "batch": batch, "batches_per_s": own, "raw_mode": expected.mode, "raw_batches_per_s": best}
    row["percent_of_raw"] = 100 * own / best
    _say("full load", row)
    return [row]


def sharing(client: Client, entries: Sequence[str], raw: Raw, scale: Scale, mps: bool) -> list[Row]:
    """One GPU and small kernels, and whether several instances of a model do more than one."""
    rows: list[Row] = []
    inputs, outputs = inputs_of(raw.network, 1), raw.prepare(1).outputs
    with ExitStack() as held:
        sides: dict[str, Callable[[], Row]] = {"raw": partial(raw.measure, "stream", 1, 2 * scale.seconds)}
        for entry in entries:
            copies = -(-IN_FLIGHT_PER_INSTANCE * SHARED[entry][1] // len(outputs))
            requests = held.enter_context(served.Requests(client, entry, "memfd", inputs * copies, outputs * copies))
            sides[entry] = partial(served.together, client, requests, 2 * scale.seconds)
        measured = {name: median_row(found) for name, found in alternate(sides, scale.rounds).items()}
    best, one = measured["raw"]["batches_per_s"], measured.get("chain_1", {}).get("batches_per_s", 0.0)
    for entry in entries:
        how, instances = SHARED[entry]
        own = measured[entry]["batches_per_s"]
        row = {"how": how, "instances": instances, "mps": "on" if mps else "off", "batches_per_s": own}
        row |= {"raw_batches_per_s": best, "percent_of_raw": 100 * own / best}
        rows.append(row | ({"times_one": round(own / one, 2)} if one else {}))
        _say("throughput", rows[-1])
    return rows


def regions(client: Client, raw: Raw, scale: Scale) -> list[Row]:
    """What a new region costs a client: three of each kind, medians."""
    x, y = inputs_of(raw.network, 1)[0], raw.prepare(1).outputs[0]
    rows = []
    for kind in served.KINDS:
        found = [served.registering(client, "identity_auto", kind, scale.registered_bytes, x, y) for _ in range(3)]
        rows.append(median_row(found))
        _say("region", rows[-1])
    return rows


def add_models(repository: Path, folder: Path, networks: Sequence[models.Network]) -> list[str]:
    """Fills the repository; the names of its entries."""
    entries = []
    for network in networks:
        for busy, rest in models.BUSY.items():
            models.add_entry(repository, f"{network.name}_{busy}", network, folder, rest=rest)
            entries.append(f"{network.name}_{busy}")
    shared = networks[-1]
    for entry, (how, instances) in SHARED.items():
        models.add_entry(
            repository,
            entry,
            shared,
            folder,
            count=instances if how != "lanes" else 1,
            lanes=instances if how == "lanes" else 1,
        )
        entries.append(entry)
    return entries


def load(client: Client, device: Device, entries: Sequence[str]) -> list[Row]:
    """Loads entries; what they take of the GPU's memory, per worker."""
    free, workers = device.memory()[0], len(_workers(client))
    load_together(client, entries)
    added = len(_workers(client)) - workers
    mib = (free - device.memory()[0]) / 2**20 / max(added, 1)
    return [{"models": ", ".join(entries), "workers": added, "mib_per_worker": round(mib, 1)}]


def load_together(client: Client, entries: Sequence[str]) -> None:
    """Loads entries side by side. Raises PenstockError when one cannot be loaded."""
    with ThreadPoolExecutor(len(entries)) as threads:
        for loaded in [threads.submit(client.load, entry, timeout_s=LOAD_S) for entry in entries]:
            loaded.result()


def _workers(client: Client) -> set[int]:
    return {int(instance["pid"]) for instance in client.status()["instances"]}


@contextmanager
def broker(repository: Path, mps: str) -> Iterator[Client]:
    """The client of a broker that loads nothing by itself."""
    with serving(repository, "--mps", mps, "--control-mode", "explicit") as server, Client(server.links["local"]) as client:
        yield client


def measure(device: Device, scale: Scale) -> Row:
    """Everything that this machine and the time allow."""
    figures: Row = {"floors": floors(scale)}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder, repository = Path(name), Path(name, "models")
        networks = available(folder, scale)
        entries = add_models(repository, folder, networks)
        with ExitStack() as held:
            raws = [held.enter_context(Raw(network, folder)) for network in networks]
            with broker(repository, "off") as client:
                figures |= alone(client, device, raws, entries, scale)
            figures["throughput"] += scale.attempt("MPS", 35.0, lambda: with_mps(repository, raws[-1], scale))
    figures["goals"] = report.goals(figures["latency"], figures["full_load"])
    return figures


def available(folder: Path, scale: Scale) -> list[models.Network]:
    """The networks whose files could be made here; the last is the one that several instances share a GPU with."""
    found = [models.IDENTITY]
    for kind, networks in (("plan", [models.PLAN]), ("torch", [models.CONVNET, models.CHAIN])):
        why_not = "not on a simulation" if scale.is_rehearsal else models.build(folder, kind)
        if why_not:
            scale.left_out.append(f"{' and '.join(network.name for network in networks)}: {why_not}")
        else:
            found += networks
    return found


def alone(client: Client, device: Device, raws: Sequence[Raw], entries: Sequence[str], scale: Scale) -> Row:
    """What is measured without MPS, which is nearly everything."""
    found: Row = {"memory": [], "latency": [], "full_load": []}
    first = [entry for entry in entries if entry.endswith("_auto")]  # one by one, for the memory of each; then all others
    for entry in first:
        found["memory"] += scale.attempt(f"loading {entry}", 20.0, partial(load, client, device, [entry]))
    others = [entry for entry in entries if entry not in first]
    found["memory"] += scale.attempt("loading the others", 40.0, partial(load, client, device, others))
    for raw in raws:
        for batch in scale.batches:
            work = partial(latency, client, raw, batch, scale)
            found["latency"] += scale.attempt(f"latency of {raw.network.name} at batch {batch}", 12.0, work)
    for raw in raws:
        for batch in scale.full_batches:
            work = partial(full_load, client, raw, batch, scale)
            found["full_load"] += scale.attempt(f"full load of {raw.network.name} at batch {batch}", 8.0, work)
    found["throughput"] = scale.attempt(
        "several instances", 15.0, partial(sharing, client, list(SHARED), raws[-1], scale, False)
    )
    found["regions"] = scale.attempt("regions", 10.0, lambda: regions(client, raws[0], scale))
    return found


def with_mps(repository: Path, raw: Raw, scale: Scale) -> list[Row]:
    """The same models as processes that share the GPU through MPS; nothing where it cannot be had."""
    entries = [entry for entry, (how, _) in SHARED.items() if how != "lanes"]
    with broker(repository, "on") as client:
        try:
            load_together(client, entries)
        except PenstockError as error:
            scale.left_out.append(f"processes with MPS: {error.message}")
            return []
        return sharing(client, entries, raw, scale, True)


def floors(scale: Scale) -> Row:
    """The raw figures; what cannot be had is left out."""
    command = [sys.executable, str(HERE / "on_gpu" / "floors.py"), *(["--quick"] if scale.is_rehearsal else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=FLOORS_S)
    if done.returncode:
        scale.has_failed = True
        scale.left_out.append(f"all raw figures: floors.py ended with status {done.returncode}")
        return {}
    found: Row = json.loads(done.stdout.strip().rpartition("\n")[2])
    for name, figures in list(found.items()):
        if isinstance(figures, dict) and "failed" in figures:
            scale.has_failed = True
            scale.left_out.append(f"raw {name}: {figures['failed']}")
            del found[name]
    return found


def _time_is_up(_number: int, _frame: object) -> None:
    raise TimeoutError("it took four times as long as it should")


def _say(what: str, row: Row) -> None:
    print(
        what,
        ", ".join(f"{key} {value:,.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()),
        flush=True,
    )


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
    signal.signal(signal.SIGALRM, _time_is_up)
    if args.rehearse:
        print(report.REHEARSAL, flush=True)
    with Device(0, blocking=True) as device:
        gpu = device.info
        facts = {"name": gpu.name, "uuid": gpu.uuid, "memory_gib": round(gpu.total_bytes / 2**30, 1)}
        figures = {
            "rehearsal": report.REHEARSAL if args.rehearse else "", "machine": machine(),
            "device": {**facts, "driver": found.driver, "runtime": found.runtime}, **measure(device, scale),
        }  # fmt: skip
    figures["left_out"] = scale.left_out
    text = report.markdown(figures)
    print(f"\n{text}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        args.json.with_suffix(".md").write_text(text, encoding="utf-8")
    return 1 if scale.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
