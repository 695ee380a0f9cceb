# SPDX-License-Identifier: Apache-2.0
"""An entry is prepared beside everything, and appears all at once or not at all."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.clients.convert.repository_entry import Place, Staging
from penstock.ipc.errors import CallerError, MachineError
from penstock.runtime.repository.directory import find_models


def write(staging: Staging, content: str, config: str = "config") -> None:
    staging.check_invariants()
    staging.repository("onnx-fp32")
    staging.file("onnx-fp32", "model.onnx").write_text(content)
    staging.describe("onnx-fp32", config, None)


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_seen_of_it_until_it_is_published(tmp_path: Path) -> None:
    with Staging(Place(tmp_path / "models", "m", 1)) as staging:
        write(staging, "weights")
        assert find_models([tmp_path / "models"]) == {}
        assert list(find_models([staging.folder / "onnx-fp32"])) == ["m"], "a repository of its own"
        assert staging.publish("onnx-fp32") == tmp_path / "models" / "m" / "1"
    assert tree(tmp_path / "models") == {"m/1/model.onnx": "weights", "m/config.pbtxt": "config"}


def test_what_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), Staging(Place(tmp_path, "m", 1)) as staging:
        write(staging, "weights")
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_not_written_over_unless_that_is_asked_for(tmp_path: Path) -> None:
    with Staging(Place(tmp_path, "m", 1)) as staging:
        write(staging, "old")
        staging.publish("onnx-fp32")
    with pytest.raises(CallerError, match="1 is there already; --force writes over it"):
        Place(tmp_path, "m", 1).check()
    # When another was as quick
    with Staging(Place(tmp_path, "m", 1)) as staging:
        write(staging, "late")
        with pytest.raises(CallerError, match="--force"):
            staging.publish("onnx-fp32")
    assert tree(tmp_path)["m/1/model.onnx"] == "old"
    with Staging(Place(tmp_path, "m", 1, overwrites=True)) as staging:
        write(staging, "new", "other")
        staging.publish("onnx-fp32")
    assert tree(tmp_path) == {"m/1/model.onnx": "new", "m/config.pbtxt": "other"}


def test_another_version_shares_the_configuration(tmp_path: Path) -> None:
    with Staging(Place(tmp_path, "m", 1)) as staging:
        write(staging, "one")
        staging.publish("onnx-fp32")
    with Staging(Place(tmp_path, "m", 2)) as staging:
        write(staging, "two")
        staging.check_config("config")
        with pytest.raises(CallerError, match="config.pbtxt says something else than this version needs"):
            staging.check_config("another")
        staging.publish("onnx-fp32")
    assert tree(tmp_path) == {"m/1/model.onnx": "one", "m/2/model.onnx": "two", "m/config.pbtxt": "config"}


def test_a_configuration_that_somebody_else_wrote_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    # Given two conversions that began when nothing was there, one of which has come to its end
    with Staging(Place(tmp_path, "m", 1)) as first, Staging(Place(tmp_path, "m", 2)) as second:
        write(first, "one", "config")
        write(second, "two", "another")
        second.check_config("another")
        first.publish("onnx-fp32")
        # When the other is published
        with pytest.raises(CallerError, match="config.pbtxt says something else than this version needs"):
            second.publish("onnx-fp32")
    # Then the first is as it was
    assert tree(tmp_path) == {"m/1/model.onnx": "one", "m/config.pbtxt": "config"}


def test_what_was_there_is_there_again_when_it_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Staging(Place(tmp_path, "m", 1)) as staging:
        write(staging, "old")
        staging.publish("onnx-fp32")
    # Given a file system that does not take the new version
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if "onnx-fp32" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    # When it is to be written over
    with Staging(Place(tmp_path, "m", 1, overwrites=True)) as staging:
        write(staging, "new")
        with pytest.raises(MachineError, match="cannot write .*m/1: No space left on device"):
            staging.publish("onnx-fp32")
    # Then it still is what it was
    assert tree(tmp_path) == {"m/1/model.onnx": "old", "m/config.pbtxt": "config"}


def test_labels_go_beside_the_configuration(tmp_path: Path) -> None:
    labels = tmp_path / "names.txt"
    labels.write_text("cat\n")
    with Staging(Place(tmp_path / "models", "m", 1)) as staging:
        staging.repository("x")
        staging.describe("x", "config", labels)
        staging.publish("x")
    assert tree(tmp_path / "models") == {"m/config.pbtxt": "config", "m/names.txt": "cat\n"}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden"])
def test_a_name_is_a_directory_that_is_not_hidden(name: str, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="cannot be a model's"):
        Place(tmp_path, name, 1).check()


def test_a_repository_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MachineError, match="cannot write to the repository .*file/models: Not a directory"),
        Staging(Place(tmp_path / "file" / "models", "m", 1)),
    ):
        pass
