# SPDX-License-Identifier: Apache-2.0
"""The function that builds a module: how it is found, what it is called with, what it may return."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.clients.convert.module_functions import Built, Call, build
from penstock.ipc.errors import CallerError

SOURCE = """
calls = []
def plain(config, checkpoint): return ("module", config, checkpoint)[0:1] + ((config, checkpoint),)
def bare(): return "module"
def named(): return "module", {"inputs": ["a"], "outputs": ["b", "c"]}
def examples(config=None): return "module", {"a": 1}
def wide(width, config=None): return width
def everything(**arguments): return arguments
def three(): return 1, 2, 3
def fails(): return {}["key"]
constant = 3
"""
DEEP_LEARNING_EXAMPLE = """
def update_argparser(parser):
    parser.add_argument("--config", type=str, required=True)
    parser.add_argument("--checkpoint", type=str)
    parser.add_argument("--precision", type=str, default="fp32", choices=["fp32", "fp16"])
    parser.add_argument("--is-prunet", type=bool, required=True)
    parser.add_argument("--width", type=int, default=64)

def get_model(**model_args):
    return model_args, {"inputs": ["INPUT__0"], "outputs": ["OUTPUT__0"]}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with modules, which is where the command is run."""
    (tmp_path / "penstock_test_models.py").write_text(SOURCE)
    (tmp_path / "penstock_test_example.py").write_text(DEEP_LEARNING_EXAMPLE)
    (tmp_path / "penstock_test_broken.py").write_text("import penstock_test_no_such_package")
    (tmp_path / "penstock_test_wrong.py").write_text("1 / 0")
    (tmp_path / "config.json").write_text('{"classes": 7}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("penstock_test_")]:
        del sys.modules[name]


def called(function: str, words: str = "", config: str = "", checkpoint: str = "") -> Built:
    return build(
        Call(
            f"penstock_test_{function}", Path(config) if config else None, Path(checkpoint) if checkpoint else None,
            tuple(words.split()),
        )
    )  # fmt: skip


def test_config_is_what_the_file_holds_and_the_checkpoint_its_path() -> None:
    built = called("models:plain", config="config.json", checkpoint="weights.pth")
    assert built == Built("module", ({"classes": 7}, "weights.pth"), is_checkpoint_taken=True)
    assert called("models:plain").examples == (None, None)


def test_a_function_need_take_neither() -> None:
    assert called("models:bare", checkpoint="weights.pth") == Built("module", is_checkpoint_taken=False)
    with pytest.raises(CallerError, match=r"takes \[\], not \['config'\]"):
        called("models:bare", config="config.json")


def test_what_is_returned_with_the_module_is_names_or_examples() -> None:
    assert called("models:named") == Built("module", None, ("a",), ("b", "c"))
    assert called("models:examples").examples == {"a": 1}
    with pytest.raises(CallerError, match=r"returned 3 values; expected are module or \(module, example inputs\)"):
        called("models:three")


def test_its_own_arguments_come_after_two_hyphens() -> None:
    assert called("models:wide", "--width 3").module == "3"
    assert called("models:everything", "--is-prunet False", "config.json").module == {
        "config": "config.json", "checkpoint": None, "precision": "fp32", "is_prunet": "False",
    }  # fmt: skip
    with pytest.raises(CallerError, match=r"needs \['width'\]: say -- --width VALUE"):
        called("models:wide")
    with pytest.raises(CallerError, match=r"takes \['config', 'width'\], not \['depth'\]"):
        called("models:wide", "--width 3 --depth 2")
    for words in ("width 3", "--width"):
        with pytest.raises(CallerError, match="as --NAME VALUE pairs"):
            called("models:wide", words)


def test_a_model_of_nvidias_examples_gets_what_its_own_parser_makes_of_them() -> None:
    built = called("example:get_model", "--is-prunet False", "config.json", "weights.pth")
    assert built.module == {
        "config": "config.json", "checkpoint": "weights.pth", "precision": "fp32", "is_prunet": True, "width": 64,
    }  # fmt: skip
    assert (built.input_names, built.output_names, built.is_checkpoint_taken) == (("INPUT__0",), ("OUTPUT__0",), True)
    with pytest.raises(CallerError, match="after --: the following arguments are required: --is-prunet"):
        called("example:get_model", "", "config.json")
    with pytest.raises(CallerError, match="after --: unknown: --depth 3"):
        called("example:get_model", "--is-prunet 1 --depth 3", "config.json")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            "nowhere:f",
            r"module 'penstock_test_nowhere' cannot be imported: there is no module 'penstock_test_nowhere'; it is looked for in ",
        ),
        ("broken:f", r"there is no module 'penstock_test_no_such_package'; install it"),
        ("wrong:f", r"cannot be imported: ZeroDivisionError: division by zero"),
        ("models:build", r"has no function 'build'; it has bare, everything, examples, fails, named, plain, three, wide"),
        ("models:constant", r"has no function 'constant'"),
        ("models:fails", r"penstock_test_models:fails raised KeyError: 'key' \(penstock_test_models.py:10\)"),
    ],
)
def test_what_cannot_be_called_is_said(function: str, said: str) -> None:
    with pytest.raises(CallerError, match=said):
        called(function)


def test_a_config_that_cannot_be_read_is_named(here: Path) -> None:
    (here / "bad.json").write_text("{")
    with pytest.raises(CallerError, match="bad.json"):
        called("models:plain", config="bad.json")
    with pytest.raises(CallerError, match="none.json"):
        called("models:plain", config="none.json")


def test_yaml_needs_a_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "config.yaml").write_text("classes: 7\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(CallerError, match=r"YAML needs PyYAML \(pip install pyyaml\)"):
        called("models:plain", config="config.yaml")
