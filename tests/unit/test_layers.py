# SPDX-License-Identifier: Apache-2.0
"""Rules that no single file can keep: who may import whom, what pure modules stay clear of, how things are named and sized."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("ipc", "runtime", "workers", "clients")

MAY_IMPORT = {"ipc": {"ipc"}, "runtime": {"runtime", "ipc"}, "workers": {"workers", "ipc"}, "clients": {"clients", "ipc"}}
"""Which of our folders each folder may import; clients/cli may import all of them, but only inside functions.

runtime/gateway/ is a process of its own and a client of the broker: it imports `clients`, and nothing of the rest of runtime/, which
imports nothing of it.
"""
GATEWAY = "runtime/gateway/"

PURE = (
    "runtime/scheduling/*.py",
    "ipc/messages/*.py",
    "ipc/codec.py",
    "ipc/tensors.py",
    "runtime/histograms.py",
    "runtime/records.py",
    "runtime/response_cache.py",
    "runtime/restarts.py",
    "runtime/statistics.py",
    "runtime/metrics/exposition.py",
    "runtime/metrics/families.py",
    "workers/packing.py",
    "workers/ragged.py",
    "workers/shapes.py",
    "workers/backends/base.py",
    "workers/backends/execution_providers.py",
    "workers/backends/forward_names.py",
    "workers/backends/plans/buckets.py",
    "workers/backends/plans/datatypes.py",
    "workers/backends/plans/profiles.py",
    "workers/backends/plans/verification.py",
    "clients/extents.py",
    "clients/models.py",
    "clients/pending.py",
    "clients/perf/arrivals.py",
    "clients/perf/confidence.py",
    "clients/perf/load.py",
    "clients/perf/notes.py",
    "clients/perf/configuration.py",
    "clients/people_detection/boxes.py",
    "clients/people_detection/layout.py",
    "clients/people_detection/scenes.py",
    "clients/people_detection/streets/*.py",
    "clients/perf/percentiles.py",
    "clients/perf/stages.py",
    "clients/perf/figures.py",
    "clients/perf/targets/kserve.py",
    "clients/convert/correctness.py",
    "clients/convert/engine_orders.py",
    "clients/convert/entry_config.py",
    "clients/convert/signatures.py",
    "clients/convert/tolerances.py",
    "clients/timeline/*.py",
    "clients/people_detection/counting.py",
    "clients/people_detection/variants.py",
)
IMPURE_MODULES = frozenset(
    {"asyncio", "concurrent", "ctypes", "fcntl", "logging", "mmap", "multiprocessing", "os", "pathlib", "posix_ipc", "random"}
    | {"select", "selectors", "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "time", "zmq"}
    | {"cuda", "cupy", "torch", "tensorrt"}
)

BOUNDARIES = {
    "zmq": {
        "ipc/zeromq.py",
        "clients/wire.py",
    },  # wire.py is the reference client for other languages: zmq + msgpack, none of ours
    "msgpack": {"clients/wire.py"},
    "posix_ipc": {"ipc/system_regions.py"},
    # The clients' two are what served answers are compared with, by the demo and by convert: not through our backend.
    "onnxruntime": {
        "workers/backends/onnx_sessions.py",
        "clients/cli/direct_answers.py",
        "clients/convert/onnx_runs.py",
    },
    # One executes engines, the other builds them, in a process of its own.
    "tensorrt": {"workers/backends/plans/library.py", "clients/convert/engine_program.py"},
    "cryptography": {"runtime/agents/encryption.py"},
    "torch": {"workers/backends/torch_models.py", "clients/convert/torch_modules.py"},
    # Each of the two links has its own client; the configuration schema is loaded from tritonclient by its path.
    "tritonclient": {
        "clients/perf/targets/kserve_http.py",
        "clients/perf/targets/kserve_grpc.py",
        "runtime/gateway/over_grpc/schema.py",
    },
    # Its parser of answers: docs/decisions/0016.
    "geventhttpclient": {"clients/perf/targets/http_answers.py"},
    "grpc": {"clients/perf/targets/kserve_grpc.py", "runtime/gateway/over_grpc/schema.py"},  # a client and a server
    "aiohttp": {"runtime/gateway/over_http/server.py"},  # docs/decisions/0017
    "uvloop": {"runtime/gateway/process.py"},
    # protobuf: a schema's, and messages
    "google": {"runtime/repository/schema.py", "clients/perf/targets/kserve_grpc.py", "runtime/gateway/over_grpc/schema.py"},
    # One reads image files, the other draws on images.
    "PIL": {"clients/people_detection/images.py", "clients/people_detection/drawing.py"},
    "http": {"runtime/metrics/door.py"},  # the standard library's server, which the broker is to have once
}
"""The only importers of a package. A third-party one that is not named here and not EVERYWHERE has one, wherever it is."""

EVERYWHERE = frozenset({"numpy", "msgspec"})
COMMAND_LINE_ONLY = frozenset({"click", "rich"})
FORBIDDEN_NAMES = frozenset({"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"})
MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:work|root|home/\w+|Users/\w+)/[\w.]")


@dataclass(frozen=True)
class Import:
    """One imported module, absolute: `penstock.ipc.errors`, `numpy.typing`. `lazy`: inside a function, or for types only."""

    file: str
    line: int
    module: str
    lazy: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    @property
    def folder(self) -> str:
        return self.module.split(".")[1] if self.module.startswith("penstock.") else ""


@dataclass(frozen=True)
class Source:
    path: str
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        return self.path.split("/", maxsplit=1)[0]

    def imports(self) -> Iterator[Import]:
        package = ["penstock", *self.path.split("/")[:-1]]
        later = [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS) or _is_for_types_only(node)]
        lazy = {id(inner) for node in later for inner in ast.walk(node)}
        for node in ast.walk(self.tree):
            for module in _imported(node, package):
                yield Import(self.path, node.lineno, module, id(node) in lazy)


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported(node: ast.AST, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    start = package[: len(package) - node.level + 1] if node.level else []
    module = ".".join([*start, *([node.module] if node.module else [])])
    if module == "penstock":
        return [f"penstock.{alias.name}" for alias in node.names]
    return [module]


CACHE = ROOT / "bench" / "cache"
"""What benches build and git ignores: the environments of bench/peers among it."""


def _sources(*folders: str) -> list[Source]:
    every = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [_source(path) for path in every if CACHE not in path.parents]
    assert found, f"no sources in {folders}: this test would check nothing"
    return found


@cache
def _source(path: Path) -> Source:
    text = path.read_text()
    return Source(path.relative_to(ROOT).as_posix(), text, ast.parse(text, str(path)))


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return _sources(*CODE)


@pytest.fixture(scope="module")
def imports(sources: list[Source]) -> list[Import]:
    return [found for source in sources for found in source.imports()]


def test_each_folder_imports_only_the_layers_below_it(imports: list[Import]) -> None:
    wrong = []
    for found in imports:
        folder = found.file.split("/")[0]
        allowed = set(CODE) if found.lazy and found.file.startswith("clients/cli/") else MAY_IMPORT[folder]
        if found.file.startswith(GATEWAY):
            allowed = {"clients", "ipc"} | ({"runtime"} if _is_of_gateways(found) else set())
        if found.folder and found.folder not in allowed:
            wrong.append(found)
    assert not wrong


def test_the_broker_imports_nothing_of_gateways(imports: list[Import]) -> None:
    elsewhere = [found for found in imports if not found.file.startswith((GATEWAY, "clients/cli/"))]
    assert not [found for found in elsewhere if _is_of_gateways(found)]


def _is_of_gateways(found: Import) -> bool:
    return f"{found.module}.".startswith(f"penstock.{GATEWAY.replace('/', '.')}")


def test_inside_a_folder_imports_of_ours_are_relative(sources: list[Source]) -> None:
    absolute = [
        (source.path, node.lineno)
        for source in sources
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "penstock")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "penstock" for alias in node.names))
    ]
    assert not absolute


def test_pure_modules_import_no_clock_socket_process_or_memory(imports: list[Import]) -> None:
    pure = {path.relative_to(ROOT).as_posix() for pattern in PURE for path in ROOT.glob(pattern)}
    assert not [found for found in imports if found.file in pure and found.top in IMPURE_MODULES]


def test_pure_modules_import_only_pure_modules_of_ours(imports: list[Import]) -> None:
    pure = {path.relative_to(ROOT).as_posix() for pattern in PURE for path in ROOT.glob(pattern)} | {"ipc/errors.py"}
    wrong = []
    for found in imports:
        if found.file in pure and found.folder:
            path = found.module.removeprefix("penstock.").replace(".", "/") + ".py"
            if path not in pure and (ROOT / path).exists():
                wrong.append(found)
    assert not wrong


def test_each_third_party_package_has_one_importer(imports: list[Import]) -> None:
    importers: dict[str, set[str]] = {}
    for found in imports:
        importers.setdefault(found.top, set()).add(found.file)
    wrong = {}
    for package, files in importers.items():
        if package in BOUNDARIES:
            strangers = files - BOUNDARIES[package]
        elif package in COMMAND_LINE_ONLY:
            strangers = {file for file in files if not file.startswith("clients/cli/")}
        elif package in EVERYWHERE or package in _standard_library() or package == "penstock":
            continue
        else:
            strangers = files if len(files) > 1 else set()
        if strangers:
            wrong[package] = strangers
    assert not wrong


def _standard_library() -> frozenset[str]:
    return frozenset(sys.stdlib_module_names)


def test_modules_are_named_after_neither_a_dependency_nor_nothing(sources: list[Source]) -> None:
    dependencies = {"zmq", "msgspec", "msgpack", "numpy", "onnxruntime", "torch", "tensorrt", "posix_ipc", "click", "rich"}
    dependencies |= {"cryptography", "prometheus_client", "matplotlib", "jinja2"}
    names = {part for source in sources for part in source.path.removesuffix(".py").split("/")}
    assert not names & (FORBIDDEN_NAMES | dependencies)


def test_every_file_says_its_licence_and_every_module_what_it_holds() -> None:
    silent = []
    for source in _sources(*CODE, "tests", "bench", "model_repository"):
        lines = source.text.split("\n", 2)
        if source.text and "# SPDX-License-Identifier: Apache-2.0" not in lines[:2]:
            silent.append(f"{source.path}: no SPDX line")
        if source.tree.body and not ast.get_docstring(source.tree):
            silent.append(f"{source.path}: no docstring")
    assert not silent


def test_every_package_is_typed(sources: list[Source]) -> None:
    packages = {Path(source.path).parent for source in sources}
    assert not [str(package) for package in packages if not (ROOT / package / "py.typed").exists()]


def test_unit_tests_start_no_process_and_open_no_socket() -> None:
    starting = {"asyncio", "multiprocessing", "socket", "subprocess", "zmq"}
    wrong = [found for source in _sources("tests/unit") for found in source.imports() if found.top in starting]
    assert {found.file for found in wrong} == {"tests/unit/test_layers.py"}, wrong  # which asks git


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    named = []
    for path in _text_files():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if MACHINE_PATH.search(line):
                named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not named


def _text_files() -> list[Path]:
    """What git would commit; in an unpacked archive, without git, every file outside hidden and built folders."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    files = [
        path for path in paths if path.is_file() and path != Path(__file__) and path.suffix not in (".onnx", ".npz", ".png")
    ]
    assert len(files) > 20, "this test would check nothing"
    return [path for path in files if b"\0" not in path.read_bytes()]


def test_files_are_small(sources: list[Source]) -> None:
    sizes = {source.path: source.text.count("\n") for source in sources if source.tree.body}
    assert not {path: lines for path, lines in sizes.items() if lines >= 400}
    assert statistics.median(sizes.values()) < 120


def test_functions_and_classes_are_small(sources: list[Source]) -> None:
    functions, classes = {}, {}
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, FUNCTIONS):
                functions[f"{source.path}:{node.lineno} {node.name}"] = (node.end_lineno or 0) - node.lineno + 1
            elif isinstance(node, ast.ClassDef):
                classes[f"{source.path}:{node.lineno} {node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert not {where: lines for where, lines in classes.items() if lines >= 200}
    long = {where: lines for where, lines in functions.items() if lines > 50}
    assert len(long) <= len(functions) / 100, long
    assert statistics.quantiles(functions.values(), n=10)[-1] <= 25
