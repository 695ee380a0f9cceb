# SPDX-License-Identifier: Apache-2.0
"""A program that allocates device memory and does as told, with one answer for each line.

allocate SIZE VALUE, read, free; or, of another process's memory: look HANDLE OFFSET SIZE.
"""

from __future__ import annotations

import sys

import numpy as np

from penstock.ipc import cuda


def main() -> None:
    cuda.use(0)
    address, byte_size = 0, 0
    for line in sys.stdin:
        word, *given = line.split()
        if word == "allocate":
            byte_size, value = map(int, given)
            address = cuda.malloc(byte_size)
            octets = np.full(byte_size, value, np.uint8)
            cuda.copy(address, octets.ctypes.data, byte_size)
            answer = cuda.ipc_handle(address).hex()
        elif word == "read":
            octets = np.zeros(byte_size, np.uint8)
            cuda.copy(octets.ctypes.data, address, byte_size)
            answer = " ".join(map(str, sorted(set(octets.tolist()))))
        elif word == "look":
            octets = np.zeros(int(given[2]), np.uint8)
            opened = cuda.open_ipc(bytes.fromhex(given[0]))
            cuda.copy(octets.ctypes.data, opened + int(given[1]), octets.size)
            cuda.close_ipc(opened)
            answer = " ".join(map(str, octets.tolist()))
        else:
            cuda.free(address)
            answer = "freed"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
