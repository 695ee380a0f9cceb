# SPDX-License-Identifier: Apache-2.0
"""Jobs of the helper thread, on disk: surveys, opening models with and without what comes with a load, what is cleaned up."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from texts import IDENTITY

from penstock.ipc.errors import CallerError, Code
from penstock.runtime.repository import private_directories
from penstock.runtime.repository.changes import NOWHERE
from penstock.runtime.repository.jobs import OpenModel, Survey, Sweep, Tell
from penstock.runtime.repository.orders import BroughtFile, Order, check_name, check_parameters
from penstock.runtime.repository.origins import Moment, Opened
from penstock.runtime.repository.private_directories import PREFIX


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one model; private directories go beside it."""
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(IDENTITY)
    (tmp_path / "private").mkdir()
    monkeypatch.setattr(private_directories, "MEMORY", tmp_path / "private")
    return tmp_path / "models"


def private(repository: Path) -> list[Path]:
    return list((repository.parent / "private").iterdir())


def open_model(repository: Path, order: Order, before: Opened | None = None) -> Opened | None:
    return OpenModel((str(repository),), order, before).run()


def fresh(repository: Path, order: Order) -> Opened:
    found = open_model(repository, order)
    assert found is not None
    return found


def test_a_survey_compares_with_the_one_before(repository: Path) -> None:
    first = Survey((str(repository),), NOWHERE).run()
    assert (first.names, first.changed, first.gone) == ({"m"}, ["m"], [])
    again = Survey((str(repository),), first.places).run()
    assert (again.changed, again.gone) == ([], [])
    (repository / "n").mkdir()
    (repository / "m").rename(repository.parent / "m")
    last = Survey((str(repository),), first.places).run()
    assert (last.names, last.changed, last.gone) == ({"n"}, ["n"], ["m"])
    assert Survey((str(repository),)).run().places == NOWHERE


def test_a_model_that_is_in_two_repositories_is_opened_from_neither(repository: Path) -> None:
    other = repository.parent / "other"
    (other / "m").mkdir(parents=True)
    with pytest.raises(CallerError, match="model 'm' is ambiguous"):
        OpenModel((str(repository), str(other)), Order("m"), None, False).run()
    places = Survey((str(repository), str(other)), NOWHERE).run().places
    assert places["m"] == (f"{repository / 'm'}\n{other / 'm'}", None)


def test_unchanged_files_are_not_read_again_and_changed_ones_are(repository: Path) -> None:
    before = fresh(repository, Order("m"))
    assert open_model(repository, Order("m"), before) is None
    assert open_model(repository, Order("m", IDENTITY + "max_batch_size: 2"), before) is not None
    (repository / "m" / "1" / "new").write_text("")
    assert open_model(repository, Order("m"), before) is not None


def test_a_configuration_that_comes_along_replaces_the_one_on_disk(repository: Path) -> None:
    (repository / "m" / "config.pbtxt").write_text("nonsense")
    as_text = fresh(repository, Order("m", IDENTITY + "max_batch_size: 2"))
    tensors = '"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}], "output": [{"name": "y", "dataType": 11, "dims": ["2"]}]'
    as_json = fresh(repository, Order("m", f'{{"backend": "identity", "max_batch_size": 2, {tensors}}}'))
    assert as_text.source.config.proto == as_json.source.config.proto
    assert as_text.source.config.is_batching_chosen and as_json.source.config.is_batching_chosen


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('{"backend": "identity"', "Invalid config override: Expecting ',' delimiter"),
        ('{"color": "red"}', 'Invalid config override: Message type "inference.ModelConfig" has no field named "color"'),
        ("color: 1", "Invalid config override: m/override:1:1: unknown key 'color'"),
        ('{"name": "n", "backend": "identity"}', "Invalid config override: m/override: unexpected directory name 'm'"),
    ],
)
def test_a_configuration_that_comes_along_and_is_wrong_is_named(repository: Path, override: str, said: str) -> None:
    with pytest.raises(CallerError) as refused:
        open_model(repository, Order("m", override))
    assert refused.value.message.startswith(said)


def test_files_that_come_along_lie_in_a_directory_of_their_own_until_the_end(repository: Path) -> None:
    fd = os.memfd_create("file")
    os.write(fd, b"0123")
    order = Order("new", IDENTITY, {"1/a": BroughtFile(b"abc"), "2/deep/b": BroughtFile(fd=fd)})
    opened = fresh(repository, order)
    place = opened.source.directory
    assert (opened.stamps, opened.source.versions, place.name) == (None, (2,), "new")
    assert (place / "1" / "a").read_bytes() == b"abc" and (place / "2" / "deep" / "b").read_bytes() == b"0123"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    Sweep().run()
    assert private(repository) == [place.parent], "it is in use"
    for moment in (Moment.LOAD_COMPLETE, Moment.UNLOAD):
        Tell(opened.origin, moment).run()
        assert place.exists()
    Tell(opened.origin, Moment.UNLOAD_COMPLETE).run()
    assert not private(repository)


def test_files_that_are_of_no_use_are_removed_at_once(repository: Path) -> None:
    for files in ({"1/a": BroughtFile(b""), "1": BroughtFile(b"")}, {"a": BroughtFile(b"")}):
        with pytest.raises(CallerError):
            open_model(repository, Order("new", IDENTITY, files))
        assert not private(repository)


def test_what_a_killed_broker_left_is_swept(repository: Path) -> None:
    left = repository.parent / "private" / f"{PREFIX}left"
    (left / "m").mkdir(parents=True)
    used = repository.parent / "private" / f"{PREFIX}used"
    used.mkdir()
    (repository.parent / "private" / f"{PREFIX}link").symlink_to(repository)
    lock = os.open(used, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    Sweep().run()
    os.close(lock)
    assert {path.name for path in private(repository)} == {f"{PREFIX}used", f"{PREFIX}link"}
    assert (repository / "m").exists()


def test_moments_have_an_order(repository: Path) -> None:
    origin = fresh(repository, Order("m")).origin
    with pytest.raises(AssertionError, match="<Origin of m: LOAD> cannot become UNLOAD"):
        origin.become(Moment.UNLOAD)


@pytest.mark.parametrize(
    ("files", "config", "said"),
    [
        (["1/a"], "c", "unrecognized load parameter '1/a'."),
        (["file:1/../../a"], "c", "Invalid file parameter 'file:1/../../a' with normalized path '../a' must stay within model directory."),
        (["file:/a"], "c", "Invalid file parameter 'file:/a' with normalized path '/a' must stay within model directory."),
        (["file:"], "c", "Invalid file parameter 'file:' with normalized path '.' must stay within model directory."),
        (["file:1/a"], "", "Load parameter 'config' must be specified for model file override"),
        (["file:1/a", "file:1//a"], "c", "file '1/a' is given twice"),
    ],
)  # fmt: skip
def test_parameters_that_are_none_are_refused_in_tritons_words(files: list[str], config: str, said: str) -> None:
    with pytest.raises(CallerError) as refused:
        check_parameters(config, files)
    assert (refused.value.message, refused.value.code) == (said, Code.INVALID_ARG)


@pytest.mark.parametrize("name", ["a/b", "..", "a..b", "a\\b", ".", "a\0"])
def test_a_name_must_not_lead_elsewhere(name: str) -> None:
    with pytest.raises(CallerError, match="model name must not contain path traversal characters"):
        check_name(name)
