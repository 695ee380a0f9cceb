# SPDX-License-Identifier: Apache-2.0
"""A simulated CUDA runtime: what the project uses of cuda-bindings 13, over host memory, and stricter than the real one.

- Device memory is shared memory behind addresses that cannot be dereferenced: a host access crashes, as it should.
- Streams run late on purpose: only when something waits for them, or has asked for the third time. What reads memory too early
  or uses it again too early gets wrong data. Copies from pinned memory read it when they run, from pageable memory at once.
- Wrong use that CUDA would not notice is recorded as a violation; a copy out of bounds loses the context.
- Another process opens an allocation by its handle, while the exporter lives and has not freed it.

What a test needs besides the two modules is here. The environment configures every process of a test alike:

SIMULATED_CUDA_DIR      where violations are written (violations-PID), and whose file `paused` stops the device
SIMULATED_CUDA_GPUS     how many devices there are: 1; 0 is a machine with a driver and no GPU
SIMULATED_CUDA_MEMORY   bytes per device: 8 GiB
SIMULATED_CUDA_PINNED   bytes that a process may pin: without bound
SIMULATED_CUDA_MIG      1: the devices are slices of a GPU
SIMULATED_CUDA_MPS      1: there is an MPS daemon
SIMULATED_CUDA_NO_IPC   1: no CUDA IPC, as under WSL
SIMULATED_CUDA_WITHOUT  names, by commas, that the runtime module does not have, as an older one
SIMULATED_CUDA_FAIL     CALL:N:ERROR, by commas: the Nth call fails; CALL:N+:ERROR: from the Nth on
CUDA_VISIBLE_DEVICES    ordinals or UUIDs, as ever
"""

from .api import (
    DeviceFault,
    enqueue,
    fail,
    hold,
    is_registered,
    leftovers,
    pause,
    pending,
    release,
    resume,
    shut_down,
    take_violations,
    view,
    violations,
)

__all__ = [
    "DeviceFault", "enqueue", "fail", "hold", "is_registered", "leftovers", "pause", "pending", "release", "resume", "shut_down",
    "take_violations", "view", "violations",
]  # fmt: skip
