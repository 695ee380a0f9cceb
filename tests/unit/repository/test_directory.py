# SPDX-License-Identifier: Apache-2.0
"""Repositories on disk: versions, files, detection, and one bad model beside good ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from texts import IDENTITY, ONNX

from penstock.ipc.errors import CallerError, Code, PenstockError
from penstock.runtime.repository.directory import ModelSource, find_models, only_directory, read_model
from penstock.runtime.repository.placement import ANYWHERE, Placing

EXAMPLES = Path(__file__).parents[3] / "model_repository"


def model(repository: Path, name: str, text: str | None = IDENTITY, *files: str) -> Path:
    """A model directory; a name that ends in a slash becomes a directory."""
    directory = repository / name
    directory.mkdir(parents=True)
    if text is not None:
        (directory / "config.pbtxt").write_text(text)
    for file in files or ("1/",):
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if file.endswith("/") else path.write_bytes(b"")
    return directory


class Scanned(NamedTuple):
    """What repositories hold: models, and why others are none."""

    sources: list[ModelSource]
    failures: dict[str, str]


def scan(repositories: Sequence[Path], placing: Placing = ANYWHERE) -> Scanned:
    found = find_models(repositories)
    sources, failures = [], {}
    for name in sorted(found):
        try:
            sources.append(read_model(only_directory(name, found[name]), placing))
        except PenstockError as error:
            failures[name] = error.message
    return Scanned(sources, failures)


def only(repository: Path) -> ModelSource:
    found = scan([repository])
    assert not found.failures
    (source,) = found.sources
    return source


def failure(repository: Path) -> str:
    found = scan([repository])
    assert not found.sources
    (reason,) = found.failures.values()
    return reason


def test_the_sample_repository_is_read_without_a_complaint() -> None:
    found = scan([EXAMPLES])

    assert not found.failures
    assert {source.name for source in found.sources} >= {"digits", "simple", "identity_fp32", "ragged_sum"}
    assert all(source.versions == (1,) and not source.config.warnings for source in found.sources)


def test_the_latest_version_is_served_unless_told_otherwise(tmp_path: Path) -> None:
    directory = model(tmp_path, "m", IDENTITY, "1/", "2/", "10/")

    assert only(tmp_path) == ModelSource("m", directory, only(tmp_path).config, (10,))


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("latest { num_versions: 2 }", (2, 10)),
        ("latest { num_versions: 9 }", (1, 2, 10)),
        ("all { }", (1, 2, 10)),
        ("specific { versions: [ 10, 1, 1 ] }", (1, 10)),
    ],
)
def test_the_version_policy_chooses(tmp_path: Path, policy: str, versions: tuple[int, ...]) -> None:
    model(tmp_path, "m", f"{IDENTITY} version_policy {{ {policy} }}", "1/", "2/", "10/")

    assert only(tmp_path).versions == versions


def test_a_specific_version_that_is_missing_is_a_warning_as_long_as_another_is_there(tmp_path: Path) -> None:
    model(tmp_path, "m", IDENTITY + "version_policy { specific { versions: [ 1, 7 ] } }")

    source = only(tmp_path)
    assert source.versions == (1,)
    assert source.config.warnings == ("m: version 7 is specified for model 'm', but the version directory is not present",)


def test_without_a_version_the_model_fails(tmp_path: Path) -> None:
    model(tmp_path, "m", IDENTITY + "version_policy { specific { versions: [ 3 ] } }", "1/", "2/")

    assert failure(tmp_path) == (
        "at least one version must be available under the version policy of model 'm'; versions present are 1, 2"
    )


def test_directories_that_are_no_versions_are_left_alone(tmp_path: Path) -> None:
    names = ("1/", "003/", "0/", "2b/", "v4/", "warmup/", "99999999999999999999/", "\u0665/", "5")
    model(tmp_path, "m", IDENTITY, *names)

    source = only(tmp_path)
    assert source.versions == (1,)
    assert source.config.warnings == (
        "m: ignore version directory '0' which is not > 0",
        "m: ignore version directory '003' which contains leading zeros in its directory name",
        "m: ignore version directory '2b' which fails to convert to integral number",
        "m: ignore version directory '99999999999999999999' which fails to convert to integral number",
    )


def test_a_model_file_that_is_missing_is_named(tmp_path: Path) -> None:
    model(tmp_path, "m", ONNX + "version_policy { all { } }", "1/model.onnx", "2/other.onnx")

    assert (
        failure(tmp_path)
        == "model file m/2/model.onnx is missing; name another one with default_model_filename in config.pbtxt"
    )


def test_a_version_that_is_not_served_needs_no_model_file(tmp_path: Path) -> None:
    model(tmp_path, "m", ONNX, "1/", "2/model.onnx")

    assert only(tmp_path).versions == (2,)


def test_the_model_file_may_have_another_name(tmp_path: Path) -> None:
    model(tmp_path, "m", ONNX + 'default_model_filename: "net.onnx"', "1/net.onnx")

    assert only(tmp_path).config.filename == "net.onnx"


def test_a_model_file_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    model(tmp_path, "m", ONNX, "1/model.onnx/")

    assert failure(tmp_path) == "model file m/1/model.onnx is a directory; a file is needed"


@pytest.mark.parametrize("text", [None, "", "max_batch_size: 2"])
def test_an_onnx_file_needs_no_configuration(tmp_path: Path, text: str | None) -> None:
    model(tmp_path, "m", text, "1/model.onnx")

    config = only(tmp_path).config
    assert (config.name, config.backend, config.is_complete) == ("m", "onnxruntime", False)


@pytest.mark.parametrize(
    ("file", "backend"),
    [("model.graphdef", "tensorflow"), ("model.py", "python"), ("model.xml", "openvino")],
)
def test_files_of_other_backends_are_refused_by_name(tmp_path: Path, file: str, backend: str) -> None:
    model(tmp_path, "m", None, f"1/{file}")

    assert f"unable to find backend library for backend '{backend}'; this release has onnxruntime" in failure(tmp_path)


def test_a_name_may_tell_the_backend(tmp_path: Path) -> None:
    model(tmp_path, "echo.identity", IDENTITY.partition("\n")[2])

    assert only(tmp_path).config.backend == "identity"


def test_without_any_sign_of_a_backend_the_model_fails(tmp_path: Path) -> None:
    model(tmp_path, "m", None, "1/weights.bin")

    assert failure(tmp_path).startswith("Invalid model name: Could not determine backend for model 'm' with no backend in")


def test_one_bad_model_does_not_stop_the_others(tmp_path: Path) -> None:
    model(tmp_path, "broken", "max_batch_size: $")
    model(tmp_path, "good")
    model(tmp_path, "unfinished", "sequence_batching { }")

    found = scan([tmp_path])

    assert [source.name for source in found.sources] == ["good"]
    assert found.failures["broken"].startswith("broken/config.pbtxt:1:17: key 'max_batch_size' takes an integer")
    assert found.failures["unfinished"].startswith("unfinished/config.pbtxt:1:1: sequence_batching is not implemented")


def test_a_name_in_two_repositories_is_ambiguous(tmp_path: Path) -> None:
    for repository in ("a", "b"):
        model(tmp_path / repository, "m")
    model(tmp_path / "b", "n")

    found = scan([tmp_path / "a", tmp_path / "b", tmp_path / "a"])

    assert [source.name for source in found.sources] == ["n"]
    assert found.failures == {
        "m": f"model 'm' is ambiguous: it is in 2 repositories: {tmp_path / 'a'}, {tmp_path / 'b'}; keep it in one of them"
    }


def test_what_is_no_model_is_passed_over(tmp_path: Path) -> None:
    for name in (".git", "__pycache__", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text("")

    assert scan([tmp_path]) == ([], {})


def test_a_text_that_is_not_utf8_is_a_failure(tmp_path: Path) -> None:
    (model(tmp_path, "m") / "config.pbtxt").write_bytes(b'name: "\xff"')

    assert failure(tmp_path) == "m/config.pbtxt: is not UTF-8 text: byte 7 invalid start byte"


def test_a_configuration_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    (model(tmp_path, "m", None) / "config.pbtxt").mkdir()

    assert failure(tmp_path) == f"m/config.pbtxt: cannot be read: {os.strerror(21)}"


def test_a_repository_that_does_not_exist_is_the_callers_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for path, said in ((tmp_path / "none", "does not exist"), (tmp_path / "file", "is not a directory")):
        with pytest.raises(CallerError, match=f"model repository {path} {said}") as caught:
            scan([tmp_path, path])
        assert caught.value.code is Code.NOT_FOUND


def test_gpu_models_fall_back_when_asked(tmp_path: Path) -> None:
    model(tmp_path, "m", IDENTITY + "instance_group { kind: KIND_GPU }")

    assert "--fallback cpu" in failure(tmp_path)
    (source,) = scan([tmp_path], Placing(fallback=True)).sources
    assert len(source.config.warnings) == 1
