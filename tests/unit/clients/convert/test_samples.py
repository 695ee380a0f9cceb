# SPDX-License-Identifier: Apache-2.0
"""The requests that both sides answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.clients.convert.samples import given_samples, random_samples
from penstock.clients.models import TensorInfo
from penstock.ipc.errors import CallerError

IMAGE = (TensorInfo("image", "FP32", (2, 3)),)


def test_random_requests_have_one_row_the_most_and_one_between() -> None:
    samples = random_samples(IMAGE, 8, {}, 0)
    assert samples.rows == (1, 4, 8)
    assert [request["image"].shape for request in samples.requests] == [(1, 2, 3), (4, 2, 3), (8, 2, 3)]
    # One row would hide the batch from what is traced
    assert samples.example["image"].shape == (4, 2, 3)


def test_there_are_several_where_all_have_one_size_and_none_is_another() -> None:
    for size, rows in ((0, (0, 0, 0)), (1, (1, 1, 1))):
        samples = random_samples(IMAGE, size, {}, 0)
        assert samples.rows == rows
        assert not np.array_equal(samples.requests[0]["image"], samples.requests[1]["image"])


def test_the_seed_decides() -> None:
    first, same, other = (random_samples(IMAGE, 4, {}, seed).requests[0]["image"] for seed in (7, 7, 8))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_variable_dims_are_used_with_each_shape_that_is_said() -> None:
    tokens = (TensorInfo("tokens", "INT64", (-1,)),)
    samples = random_samples(tokens, 4, {"tokens": [(5,), (9,)]}, 0)
    assert [request["tokens"].shape for request in samples.requests] == [(1, 5), (2, 9), (4, 5)]
    with pytest.raises(CallerError, match="say --shape tokens:1"):
        random_samples(tokens, 4, {}, 0)


def test_given_rows_are_all_used_once_in_batches_of_every_size(tmp_path: Path) -> None:
    images = np.arange(20 * 6, dtype=np.float32).reshape(20, 2, 3)
    np.savez(tmp_path / "inputs.npz", image=images)
    samples = given_samples(tmp_path / "inputs.npz", IMAGE, 8)
    assert samples.rows == (1, 8, 4, 1, 6)
    assert np.array_equal(np.concatenate([request["image"] for request in samples.requests]), images)
    assert samples.example["image"].shape == (4, 2, 3)


def test_a_directory_has_a_file_per_input(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.ones((2, 3), np.float32))
    samples = given_samples(tmp_path, IMAGE, 0)
    assert (samples.rows, samples.requests[0]["image"].shape) == ((0,), (2, 3))
    with pytest.raises(CallerError, match=r"has no mask.npy; it needs one .npy file per input: \['image', 'mask'\]"):
        given_samples(tmp_path, (*IMAGE, TensorInfo("mask", "BOOL", (1,))), 0)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": np.zeros((3, 2, 4), np.float32)}, r"input 'image' has shape \[3, 2, 4\], expected \[-1, 2, 3\]"),
        ({"image": np.zeros((3, 2, 3), np.float64)}, "is float64, expected float32; nothing is converted"),
        ({"picture": np.zeros((3, 2, 3), np.float32)}, r"has \['picture'\]; the inputs are \['image'\]"),
        ({"image": np.zeros((0, 2, 3), np.float32)}, "there are no rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", **arrays)
    with pytest.raises(CallerError, match=said):
        given_samples(tmp_path / "inputs.npz", IMAGE, 8)


def test_inputs_must_have_rows_of_a_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", a=np.zeros((3, 1), np.float32), b=np.zeros((2, 1), np.float32))
    with pytest.raises(CallerError, match="different numbers of rows: {'a': 3, 'b': 2}"):
        given_samples(tmp_path / "inputs.npz", (TensorInfo("a", "FP32", (1,)), TensorInfo("b", "FP32", (1,))), 8)


def test_a_file_that_is_no_archive_and_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing.npz").write_bytes(b"nothing")
    with pytest.raises(CallerError, match="cannot be read"):
        given_samples(tmp_path / "nothing.npz", IMAGE, 8)
    np.savez(tmp_path / "pickled.npz", image=np.array([[{}]], object))
    with pytest.raises(CallerError, match="cannot be read"):
        given_samples(tmp_path / "pickled.npz", IMAGE, 8)
