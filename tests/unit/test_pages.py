# SPDX-License-Identifier: Apache-2.0
"""The documentation, as far as a machine can check it: nothing generated is stale, what is named exists."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest

from penstock.ipc.codec import FrameDecoder
from penstock.ipc.errors import BrokerError, CallerError, Code, MachineError, ModelError
from penstock.ipc.messages import FromClient, Infer, Register
from penstock.runtime.repository.configuration import parse_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CODE = ("ipc", "runtime", "workers", "clients")
NOT_OURS = {"_base.py", "model_config_pb2.py", "text_format.py", "trace_summary.py", "model.py", "NAME.py"}
"""Modules of CPython, tritonclient, protobuf and Triton that are spoken of; and names that stand for any."""
FOLDERS = ("ipc", "runtime", "workers", "clients", "docs", "tests", "bench", "conf", "model_repository")


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    """docs/generate.py, which is a program beside its pages and in no package."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "docs"))
        sys.modules.pop("sections")


def test_nothing_generated_is_stale(generator: ModuleType) -> None:
    stale = [path.relative_to(ROOT).as_posix() for path in generator.stale()]
    assert not stale, f"run python docs/generate.py: {stale}"


def test_every_section_has_its_place_and_every_place_its_section(generator: ModuleType) -> None:
    marked = [name for page in PAGES for name in re.findall(r"^<!-- generated: ([\w-]+) -->$", page.read_text(), re.MULTILINE)]
    ends = sum(page.read_text().count("\n<!-- end -->") for page in PAGES)
    assert sorted(marked) == sorted(generator.SECTIONS)
    assert ends == len(marked)


def frame_of_the_page() -> bytes:
    section = (ROOT / "docs" / "protocol.md").read_text().split("<!-- generated: frame -->\n```\n")[1].split("```")[0]
    return bytes.fromhex("".join(line[:48] for line in section.splitlines()))


def test_the_frame_in_the_protocol_page_is_one() -> None:
    example = frame_of_the_page()
    assert int.from_bytes(example[:4], "little") == len(example) - 4
    register, infer = msgpack.unpackb(example[4:])
    assert register == {"type": "register", "id": 1, "name": "mine", "kind": "system", "byte_size": 32, "key": "/seg"}
    assert (infer["type"], infer["id"], infer["model"]) == ("infer", 2, "identity_fp32")
    assert infer["inputs"][0]["shape"] == [1, 4]
    assert infer["outputs"] == [{"name": "OUTPUT0", "region": "mine", "offset": 16, "byte_size": 16}]


def test_the_broker_understands_that_frame() -> None:
    decoder: FrameDecoder[Any] = FrameDecoder(FromClient)
    register, infer = decoder.decode(frame_of_the_page()[4:])
    assert register == Register(1, "mine", "system", 32, "/seg")
    assert isinstance(infer, Infer) and infer.model == "identity_fp32"


def links() -> Iterator[tuple[str, Path]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]*)(?:#[\w-]+)?\)", page.read_text()):
            if target and "://" not in target:
                yield f"{page.name}: {target}", page.parent / target


def test_every_link_leads_somewhere() -> None:
    found = list(links())
    assert len(found) > 10
    assert not [name for name, path in found if not path.exists()]


def test_every_file_that_is_named_exists() -> None:
    path_in_code = re.compile(r"`((?:\w+/)+\w+\.(?:py|md|toml|pbtxt))`")
    named = {(page.name, path) for page in PAGES for path in path_in_code.findall(page.read_text())}
    existing = {(page, path) for page, path in named if (ROOT / path).exists()}
    missing = [(page, path) for page, path in named - existing if path.split("/")[0] in FOLDERS and "NAME" not in path]
    assert len(named) > 20
    assert not missing


def test_every_module_that_is_named_exists() -> None:
    """In pages and in the code's own words; there perhaps by the end of its path."""
    modules = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    ours = {"/".join(path.parts[begin:]) for path in modules for begin in range(len(path.parts))}
    in_text = re.compile(r"(?<![\w./-])((?:\w+/)*\w+\.py)\b")
    texts = {path: path.read_text() for path in (*PAGES, *(ROOT / path for path in modules if path.parts[0] in CODE))}
    named = {(path.name, name) for path, text in texts.items() for name in in_text.findall(text)}
    written = set(re.findall(r"^```python (\w+\.py)$", (ROOT / "docs" / "tour.md").read_text(), re.MULTILINE))
    named = {(where, name) for where, name in named if where != "tour.md" or name not in written}  # its reader writes them
    assert len(named) > 100
    assert not [(where, name) for where, name in named if name not in ours and name.split("/")[-1] not in NOT_OURS]


def test_every_error_code_and_class_is_explained() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    explained = re.findall(r"^\| `([A-Z_]+)` \| (\w+) \|", text, re.MULTILINE)
    assert {code for code, _ in explained} == {code.value for code in Code}
    assert {fault for _, fault in explained} == {"caller", "model", "machine", "broker"}
    assert len(set(explained)) == len(explained)
    for kind in (CallerError, ModelError, MachineError, BrokerError):
        assert f"| `{kind.__name__}` | `{kind.fault}` |" in text


def test_configurations_in_the_pages_are_accepted() -> None:
    configuration = re.compile(r"^ *```protobuf\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    found = [block for page in PAGES for block in configuration.findall(page.read_text())]
    assert found
    for text in found:
        assert parse_config(text, Path("example/config.pbtxt"), "example").is_complete


def test_pages_are_for_everybody() -> None:
    """Neither where they were written nor by whom is of use to a reader."""
    wrong = re.compile(r"/work/|/root/|\b(?:assistant|TODO|FIXME)\b", re.IGNORECASE)
    assert not [(page.name, found[0]) for page in PAGES for found in wrong.finditer(page.read_text())]
