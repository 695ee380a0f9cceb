# SPDX-License-Identifier: Apache-2.0
"""TensorRT's datatypes as those of the protocol, by the names of its enumeration.

tensorrt.nptype is of no use: that of 8.5 fails with any newer numpy, and none knows the types that numpy lacks.
"""

from __future__ import annotations

from ....ipc.errors import Code, ModelError

_DATATYPES = {
    "FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT64": "INT64", "INT32": "INT32", "INT8": "INT8", "UINT8": "UINT8",
    "BOOL": "BOOL",
}  # fmt: skip


def datatype_of(name: str, kind: str, tensor: str, filename: str) -> str:
    """The protocol's datatype of tensorrt.DataType.NAME. Raises UNSUPPORTED, naming the tensor, for what has none.

    Those are FP8, FP4, INT4 and E8M0: types of weights and of what lies between layers.
    """
    datatype = _DATATYPES.get(name)
    if datatype is None:
        raise ModelError(
            f"model file '{filename}': {kind} '{tensor}' is a {name}, which no datatype of the protocol holds; build the plan "
            "with a cast at that tensor, to FP16 or FP32",
            Code.UNSUPPORTED,
        )
    return datatype
