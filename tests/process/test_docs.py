# SPDX-License-Identifier: Apache-2.0
"""What the pages show is run: every Python block marked runnable, every query, against one broker on the sample models."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import RunningBroker, eventually

from penstock.clients import Client
from penstock.runtime.queries import Queries

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^( *)```python runnable(?: needs (\w+))?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CONFIG = re.compile(r"^```protobuf\n(backend: \"identity\".*?)^```$", re.MULTILINE | re.DOTALL)


def snippets() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text()
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start(3)) + 1
            source = "\n" * (line - 1) + textwrap.dedent(found[3])  # so that a traceback names the page's own line
            yield pytest.param(page, source, found[2], id=f"{page.name}:{line}")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """On the sample models, and the one whose configuration docs/clients.md shows."""
    folder = tmp_path_factory.mktemp("docs")
    repository = shutil.copytree(ROOT / "model_repository", folder / "models")
    (repository / "words" / "1").mkdir(parents=True)
    (config,) = _CONFIG.findall((ROOT / "docs" / "clients.md").read_text())
    (repository / "words" / "config.pbtxt").write_text(config)
    with RunningBroker(folder, repository, "--http-port", "0", "--grpc-port", "0") as running:
        yield running


@pytest.fixture
def images() -> Any:
    """Eight digits, as the README's example takes for granted."""
    with np.load(ROOT / "model_repository" / "digits" / "held_out.npz") as held_out:
        return held_out["images"][:8].astype(np.float32).reshape(8, 1, 8, 8)


def test_there_are_examples() -> None:
    pages = [snippet.values[0].name for snippet in snippets()]
    assert pages.count("README.md") == 1 and pages.count("guides.md") >= 3 and pages.count("clients.md") >= 9
    assert pages.count("triton.md") >= 1 and len(curls()) >= 4


@pytest.mark.parametrize(("page", "source", "needs"), list(snippets()))
def test_the_example_runs(
    page: Path, source: str, needs: str | None, broker: RunningBroker, images: Any, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    if needs:
        pytest.importorskip(needs, reason=f"needs {needs} (the extra `{needs}`)")
    if ".load(" in source:  # it leaves other workers than it found: not with a broker that others use
        with RunningBroker(tmp_path, ROOT / "model_repository") as own:
            run_example(page, source, own, images, monkeypatch)
    else:
        run_example(page, source, broker, images, monkeypatch)


def run_example(page: Path, source: str, broker: RunningBroker, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ADDRESS", broker.addresses["local"])
    source = at_its_ports(source, broker)
    exec(compile(source, str(page), "exec"), {"__name__": "example", "images": images})


def at_its_ports(text: str, broker: RunningBroker) -> str:
    """What a page does at Triton's ports, at those of this broker."""
    for usual, place in (("localhost:8000", "http"), ("localhost:8001", "grpc")):
        text = text.replace(usual, broker.said.get(place, ""))
    return text


def curls() -> list[str]:
    """What pages ask of HTTP with curl."""
    text = "\n".join(page.read_text() for page in PAGES)
    return sorted(set(re.findall(r"^curl (?:-X POST )?localhost:8000.*$", text, re.MULTILINE)))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("line", curls())
def test_what_is_shown_with_curl_is_answered(line: str, broker: RunningBroker) -> None:
    words = shlex.split(at_its_ports(line, broker))
    done = subprocess.run([*words, "--silent", "--show-error", "--fail"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_query_is_documented_with_its_keys(broker: RunningBroker) -> None:
    text = (ROOT / "docs" / "protocol.md").read_text().split("## Queries")[1].split("\n## ")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text.split("---|\n")[1], re.MULTILINE))
    assert set(documented) == set(re.findall(r"'(\w+)'", repr(Queries(None))))  # type: ignore[arg-type]
    with broker.client("local") as client, Client(broker.addresses["zmq"]) as other:
        client.infer("simple", {"INPUT0": np.ones((1, 16), np.int32), "INPUT1": np.ones((1, 16), np.int32)})
        with other.buffers("simple", batch=1):
            for what in [what for what in documented if what not in ("config", "stop")]:  # in the page's order: a trace begins
                found = client.query(what, "simple" if what in ("metadata", "stages") else "")
                if isinstance(found, list):
                    found = next(iter(found), {})  # no regions are shared
                keys = found or {}  # and no trace is granted
                assert not [key for key in keys if f"`{key}`" not in documented[what]], what


def test_a_worker_under_a_debugger_serves(tmp_path: Path) -> None:
    """docs/guides.md, debug a worker by hand: pdb is told to go on, and the model is served."""
    with RunningBroker(tmp_path, ROOT / "model_repository", command="broker") as broker:
        command = [sys.executable, "-m", "pdb", "-m", "penstock.clients.cli", "worker", "simple"]
        with subprocess.Popen(
            [*command, "--connect", broker.addresses["local"]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as worker:
            assert worker.stdin is not None
            worker.stdin.write("continue\n")
            worker.stdin.flush()
            with broker.client("local") as client:
                eventually(lambda: client.is_ready("simple"), 20.0, "the worker is attached")
                ones = np.ones((1, 16), np.int32)
                result = client.infer("simple", {"INPUT0": ones, "INPUT1": ones}, explain=True)
                assert result.outputs["OUTPUT0"].tolist() == [[2] * 16]
                assert result.explain is not None and result.explain.instance.startswith("simple_attached_")
            worker.kill()
