# SPDX-License-Identifier: Apache-2.0
"""What a client takes as a tensor: arrays of any library where they lie, lists, text; and what it says of everything else."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest

from penstock.clients.arrays import text_content, to_array
from penstock.clients.models import ModelInfo, TensorInfo
from penstock.ipc.errors import CallerError
from penstock.ipc.tensors import deserialize_bytes


def taken(datatype: str, dims: tuple[int, ...], value: object, batch: int = 0) -> np.ndarray[Any, Any]:
    spec = TensorInfo("x", datatype, dims)
    return to_array(ModelInfo("m", -1, 1, (1,), "", batch, (spec,), ()), spec, value)


def refusal(datatype: str, dims: tuple[int, ...], value: object, batch: int = 0) -> str:
    with pytest.raises(CallerError) as caught:
        taken(datatype, dims, value, batch)
    assert caught.value.message.startswith("model 'm': input 'x'")
    return caught.value.message


class Exporter:
    """What torch and others are to a client."""

    def __init__(self, exported: Any, device: tuple[int, int] = (1, 0)) -> None:
        self._exported = exported
        self._device = device

    def __dlpack__(self, **options: Any) -> Any:
        return self._exported.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._device


class Described:
    """What offers only `__array_interface__`."""

    def __init__(self, described: Any) -> None:
        self._described = described
        self.__array_interface__ = described.__array_interface__


def test_arrays_are_taken_as_they_are() -> None:
    source = np.ones(3, np.float32)
    assert taken("FP32", (-1,), source) is source
    assert np.shares_memory(taken("FP32", (-1,), Exporter(source)), source)
    assert np.shares_memory(taken("FP32", (-1,), Described(source)), source)
    assert np.shares_memory(taken("FP32", (-1,), memoryview(source)), source)
    assert (
        np.shares_memory(taken("FP32", (3, 2), Exporter(np.ones((2, 3), np.float32).T)), taken("FP32", (-1,), source)) is False
    )
    numbers = array.array("f", [1, 2])
    assert taken("FP32", (2,), numbers).tolist() == [1, 2]
    numbers[0] = 7
    assert taken("UINT8", (3,), b"abc").tolist() == [97, 98, 99]


def test_what_does_not_lie_side_by_side_is_no_matter() -> None:
    source = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(taken("FP32", (3, 2), Exporter(source.T)), source.T)
    assert np.shares_memory(taken("FP32", (3, 2), Exporter(source.T)), source)


def test_lists_and_single_values_take_the_input_s_own_type() -> None:
    assert taken("FP32", (-1,), [1, 2]).dtype == np.float32
    assert taken("INT8", (2,), (True, 5)).dtype == np.int8
    assert taken("FP32", (), 4).shape == ()
    assert taken("FP32", (1,), 4, batch=8).tolist() == [[4]]
    assert taken("BYTES", (-1,), "word").tolist() == ["word"]
    assert taken("BYTES", (1,), b"word", batch=8).tolist() == [[b"word"]]
    assert refusal("FP32", (3,), 4).endswith("has shape [3], given is []")
    assert refusal("FP32", (1,), np.float32(4)).endswith("has shape [1], given is []")  # it has a shape of its own


def test_bfloat16_is_its_raw_bits_in_numpy() -> None:
    bits = np.array([0x3F80], np.uint16)
    assert taken("BF16", (1,), bits) is bits
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    source = bits.view(ml_dtypes.bfloat16)
    assert np.shares_memory(taken("BF16", (1,), source), bits)
    assert refusal("UINT16", (1,), source).endswith("is UINT16, given is bfloat16 (BF16)")
    assert "raw bits in a uint16 array" in refusal("BF16", (1,), [1.5])


@pytest.mark.parametrize(
    ("datatype", "dims", "value", "text"),
    [
        ("FP32", (-1,), np.ones(3, np.int64), "is FP32, given is int64 (INT64)"),
        ("FP32", (-1,), Exporter(np.ones(3)), "is FP32, given is float64 (FP64)"),
        ("FP32", (-1,), array.array("d", [1]), "is FP32, given is float64 (FP64)"),
        ("FP32", (-1,), np.ones((1, 2), np.float32), "has shape [-1], given is [1, 2]"),
        ("FP32", (-1,), ["nine"], "could not convert string to float: 'nine'"),
        ("FP32", (-1,), np.array(["2026-11-21"], "M8[D]"), "numpy dtype datetime64[D] has no tensor datatype"),
        ("INT32", (1,), [1.5], "INT32 takes no fractions"),
        ("FP32", (2, 2), [[1, 2], [3]], "inhomogeneous"),
        ("FP32", (1,), object(), "cannot be made of what was given"),
        ("FP32", (1,), Exporter(np.ones(1, np.float32), (2, 1)), "it lies on cuda:1; copy it to the CPU first (torch: tensor.cpu()"),
        ("FP32", (1,), Exporter(np.ones(1, np.float32), (99, 0)), "it lies on DLPack device type 99:0"),
        ("BYTES", (1,), np.ones(1), "is BYTES, given is float64 (FP64)"),
    ],
)  # fmt: skip
def test_mistakes_name_the_input_what_it_is_and_what_was_given(datatype: str, dims: Any, value: object, text: str) -> None:
    assert text in refusal(datatype, dims, value)


@pytest.mark.parametrize(
    "given",
    [
        ["a", "grün", ""],
        [b"a", "grün".encode(), b""],
        ("a", b"gr\xc3\xbcn", ""),
        np.array(["a", "grün", ""]),
        np.array([b"a", "grün".encode(), b""]),
        np.array(["a", "grün", ""], object),
        np.array([np.str_("a"), np.bytes_("grün".encode()), ""], object),
    ],
)
def test_text_is_taken_in_every_form(given: object) -> None:
    content = text_content(taken("BYTES", (-1,), given), "it")
    assert deserialize_bytes(content, (3,), "it").tolist() == [b"a", "grün".encode(), b""]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="numpy's StringDType came with 2.0")
def test_strings_of_variable_width_are_text() -> None:
    words = np.array([["a"], ["long" * 20]], np.dtypes.StringDType())  # type: ignore[attr-defined, unused-ignore]
    content = text_content(taken("BYTES", (1,), words, batch=2), "it")
    assert deserialize_bytes(content, (2,), "it").tolist() == [b"a", b"long" * 20]


def test_what_is_no_text_is_named() -> None:
    with pytest.raises(CallerError, match=r"it is BYTES, of str or bytes; element 1 is a NoneType: None"):
        text_content(taken("BYTES", (-1,), ["a", None]), "it")
    with pytest.raises(CallerError, match=r"element 0 is a float: 1.5"):
        text_content(taken("BYTES", (-1,), [1.5]), "it")
    with pytest.raises(CallerError, match=r"text that is no UTF-8: .*surrogates not allowed"):
        text_content(taken("BYTES", (-1,), ["\ud800"]), "it")


class TestTorch:
    """The same with the library itself."""

    @pytest.fixture
    def torch(self) -> Any:
        return pytest.importorskip("torch", reason="needs torch (the extra `torch`)")

    def test_tensors_are_looked_at_where_they_lie(self, torch: Any) -> None:
        source = torch.arange(6, dtype=torch.float32).reshape(2, 3)
        found = taken("FP32", (3,), source, batch=2)
        assert found.ctypes.data == source.data_ptr()
        turned = taken("FP32", (2,), source.T, batch=3)
        assert (turned.ctypes.data, turned.tolist()) == (source.data_ptr(), source.T.tolist())
        assert taken("BOOL", (2,), torch.tensor([True, False])).tolist() == [True, False]
        assert taken("FP32", (), torch.tensor(2.0)).shape == ()

    def test_bfloat16_is_looked_at_as_raw_bits(self, torch: Any) -> None:
        source = torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
        found = taken("BF16", (2,), source)
        assert found.ctypes.data == source.data_ptr()
        assert found.tolist() == [0x3F80, 0xC000]
        assert "is FP32, given is torch.bfloat16 (BF16)" in refusal("FP32", (2,), source)
        assert "is UINT16, given is torch.bfloat16 (BF16)" in refusal("UINT16", (2,), source)

    def test_what_cannot_be_looked_at_says_what_to_do(self, torch: Any) -> None:
        assert "use tensor.detach()" in refusal("FP32", (2,), torch.ones(2, requires_grad=True))
        assert "use tensor.detach()" in refusal("BF16", (2,), torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
        assert "strided" in refusal("FP32", (2,), torch.ones(2).to_sparse())
        assert "meta" in refusal("FP32", (2,), torch.ones(2, device="meta"))
        assert "is FP32, given is torch.float64 (FP64)" in refusal("FP32", (2,), torch.ones(2, dtype=torch.float64))
