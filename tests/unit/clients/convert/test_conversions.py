# SPDX-License-Identifier: Apache-2.0
"""What is asked of a source before anything is written, and what becomes of a disk that cannot take it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from penstock.clients.convert import conversion
from penstock.clients.convert.conversion import Attempt, Subject, check_rows, subject_of, tried_once
from penstock.clients.convert.entry_config import Form, Serving
from penstock.clients.convert.repository_entry import Place, Staging
from penstock.clients.convert.signatures import Arrays, parse_tensor
from penstock.clients.convert.source import Asked, Say, Source, Written
from penstock.clients.convert.tolerances import Precision, Tolerances
from penstock.clients.models import Array
from penstock.ipc.errors import CallerError, MachineError, ModelError

Answer = Callable[[Array], Array]


class Function(Source):
    """y = answer(x); its disk is full."""

    def __init__(self, asked: Asked, answer: Answer) -> None:
        super().__init__(asked)
        self._answer = answer

    def open(self) -> None:
        self.inputs, self.max_batch_size = self.asked.inputs, 8 if self.asked.max_batch_size is None else 0

    def answer(self, arrays: Arrays) -> Mapping[str, Array]:
        try:
            return {"y": self._answer(arrays["x"])}
        except IndexError as error:
            raise ModelError(str(error)) from error

    def write(self, form: Form, precision: Precision, path: Path, say: Say) -> Written:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    def of(answer: Answer, tensor: str = "x:FP32:4", **asked: object) -> Subject:
        def opened(asked: Asked) -> Source:
            source = Function(asked, answer)
            source.open()
            return source

        monkeypatch.setattr(conversion, "open_source", opened)
        more = Asked(source="function", inputs=(parse_tensor(tensor),), **asked)  # type: ignore[arg-type]
        return subject_of(more, None, 0, Tolerances({}, {}))

    return of


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: x - x.mean(0, keepdims=True), r"is not the same alone as in a batch of 8 \(by up to 0\.\d+\)"),
        (lambda x: x + np.arange(len(x), dtype=np.float32)[:, None], r"\(by up to 7\)"),
        (lambda x: x[:, : 4 if len(x) > 1 else 3], r"\(shape \[1, 4\], expected \[1, 3\]\)"),
        (lambda x: np.broadcast_to(x.sum().astype(np.int64), (len(x), 2)), r"say --batching none, or --max-batch-size 0"),
    ],
    ids=["statistics of the batch", "the place in it", "its shape", "whole numbers alone"],
)
def test_a_row_that_depends_on_those_beside_it_is_not_to_be_batched(
    answer: Answer, said: str, subject: Callable[..., Subject]
) -> None:
    with pytest.raises(CallerError, match=f"output 'y' of a row .*{said}"):
        check_rows(subject(answer))


@pytest.mark.parametrize("answer", [np.tanh, lambda x: x * (1 + 1e-3 * len(x)), np.log, lambda x: x.sum(1)])
def test_rows_that_answer_for_themselves_pass(answer: Answer, subject: Callable[..., Subject]) -> None:
    with np.errstate(all="ignore"):
        check_rows(subject(answer))


def test_tolerances_that_were_asked_for_may_be_wider_and_not_stricter(subject: Callable[..., Subject]) -> None:
    wide, strict = Tolerances({"": 10.0}, {}), Tolerances({"": 0.0}, {"": 0.0})
    check_rows(subject(lambda x: x - x.mean(0, keepdims=True))._replace(tolerances=wide))
    check_rows(subject(lambda x: x * (1 + 1e-3 * len(x)))._replace(tolerances=strict))


def test_without_a_batch_dimension_there_are_no_rows(subject: Callable[..., Subject]) -> None:
    check_rows(subject(lambda x: x - x.mean(0, keepdims=True), max_batch_size=0))


def test_a_source_that_fails_for_made_up_whole_numbers_is_told_of_others(subject: Callable[..., Subject]) -> None:
    table = np.ones((3, 2), np.float32)
    with pytest.raises(ModelError, match=r"request 0: index .* \(x: random whole numbers from 0 to 127; --inputs FILE.npz"):
        subject(lambda x: table[x], "x:INT64:7")


def test_variable_dims_that_are_tried_with_one_shape_are_told(subject: Callable[..., Subject]) -> None:
    assert tried_once(subject(np.tanh, "x:FP32:-1", shapes={"x": [(5,)]})) == ["x"]
    assert tried_once(subject(np.tanh, "x:FP32:-1", shapes={"x": [(5,), (7,)]})) == []
    assert tried_once(subject(np.tanh)) == []


def test_a_full_disk_is_named_with_the_place(subject: Callable[..., Subject], tmp_path: Path) -> None:
    with (
        pytest.raises(MachineError, match=r"onnx-fp32: cannot write to .*\.convert-.*: No space left on device"),
        Staging(Place(tmp_path, "m", 1)) as staging,
    ):
        conversion.convert(Attempt("onnx", "fp32"), subject(np.tanh), staging, Serving(), None, lambda _step: None)
    assert list(tmp_path.iterdir()) == []
