# SPDX-License-Identifier: Apache-2.0
"""`penstock demo people-detection`: what is refused before anything is started, and how a round is shown. No process, no socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.clients.cli import main
from penstock.ipc import cuda


def penstock(*words: str) -> Result:
    return CliRunner().invoke(main, words, prog_name="penstock")


def refused(*words: str) -> tuple[int, str]:
    done = penstock("demo", "people-detection", *words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-m", "shared"], "'shared' is not one of 'system', 'pinned', 'gpu'"),
        (["-t", "0"], "0 is not in the range 1<=x<=256"),
        (["-s", "maybe"], "'maybe' is not a valid boolean"),
        (["--warmup", "-1"], "-1 is not in the range x>=0"),
        (["--sweep-count", "6..1"], "'6..1' is not a count of instances such as 3, nor a range such as 1..6"),
        (["-u", "unix:///tmp/a", "-r", "."], "-u calls models as they are served"),
        (["-u", "unix:///tmp/a", "--sweep-count", "1..2"], "-u calls models as they are served"),
        (["-u", "unix:///tmp/a", "--dynamic-batching", "false"], "-u calls models as they are served"),
        (["--image", "missing.png"], "'missing.png' does not exist"),
    ],
)
def test_wrong_usage(words: list[str], text: str) -> None:
    status, said = refused(*words)
    assert status == 2
    assert text in said and "Usage: penstock demo people-detection" in said


def test_a_repository_that_is_nowhere_is_told_from_the_samples() -> None:
    status, said = refused("-r", "trtis_model_repo_sample_3")
    assert status == 1
    assert "repository trtis_model_repo_sample_3: there is no such directory" in said
    assert "trtis_model_repo_sample_1 and trtis_model_repo_sample_2 come with Penstock" in said


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    status, said = refused("--image", str(tmp_path / "text.png"))
    assert status == 1
    assert f"image {tmp_path / 'text.png'} cannot be read" in said


def test_gpu_memory_without_a_gpu_is_refused_with_the_reason_and_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpus() -> list[object]:
        raise cuda.CudaUnavailable("no driver")

    monkeypatch.setattr(cuda, "gpus", gpus)
    status, said = refused("-m", "gpu")
    assert status == 1
    assert "memory gpu cannot be had: no driver; memory system and memory pinned need no GPU" in said


def test_options_of_the_demo_itself_are_not_lost_before_the_subcommand() -> None:
    done = penstock("demo", "--json", "people-detection", "-t", "2")
    assert done.exit_code == 2
    assert "put options behind it" in done.output


def test_there_are_manual_pages_of_both() -> None:
    own = penstock("help", "demo")
    assert own.exit_code == 0
    assert "penstock-demo - Classify" in own.output and "people-detection" in own.output
    inner = penstock("help", "demo", "people-detection")
    assert inner.exit_code == 0
    assert "penstock-demo-people-detection - Call" in inner.output
    assert "penstock demo people-detection [OPTIONS]" in inner.output and "--sweep-count" in inner.output
    wrong = penstock("help", "demo", "cats")
    assert wrong.exit_code == 2 and "there is no command 'demo cats'; there are people-detection" in wrong.output
    deeper = penstock("help", "status", "cats")
    assert deeper.exit_code == 2 and "status has no commands of its own" in deeper.output
