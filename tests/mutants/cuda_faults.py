# SPDX-License-Identifier: Apache-2.0
"""Faults of what is done with CUDA: errors that pass unnoticed, memory given back wrongly, order that is not kept."""

from __future__ import annotations

from fault import Fault

CALLS = "tests/unit/test_cuda_calls.py::"
SIMULATION = "tests/unit/simulated/test_cuda_simulation.py::"
STREAMS = "tests/contract/test_cuda_streams.py::"
GRAPHS = "tests/contract/test_cuda_graphs.py::"
MEMORY = "tests/contract/test_cuda_memory.py::"
DEVICES = "workers/devices/cuda/"

FAULTS = (
    Fault(
        "an illegal address is taken for an error that passes",
        "ipc/cuda.py",
        '"cudaErrorContained", "cudaErrorIllegalAddress"}',
        '"cudaErrorContained"}',
        (f"{CALLS}test_after_some_errors_the_context_is_lost",),
    ),
    Fault(
        "a failed call is left for the next library to find",
        "ipc/cuda.py",
        "        runtime().cudaGetLastError()\n    else:",
        "        runtime()\n    else:",
        (f"{CALLS}test_an_error_names_the_call_and_the_cause",),
    ),
    Fault(
        "a missing driver is an error of Python",
        "ipc/cuda.py",
        "    except RuntimeError as error:  # from the driver",
        "    except ZeroDivisionError as error:  # from the driver",
        (f"{CALLS}test_without_a_driver_one_sentence_says_so",),
    ),
    Fault(
        "a copy returns before it is done",
        "ipc/cuda.py",
        '    call("cudaMemcpy", destination',
        '    return copy_async(destination, source, byte_size, 2) or call("cudaMemcpy", destination',
        (f"{STREAMS}test_memory_is_put_and_read_without_a_stream",),
    ),
    Fault(
        "an event that is not done yet is an error",
        f"{DEVICES}events.py",
        "if error and error != NOT_READY:",
        "if error:",
        (f"{SIMULATION}test_work_is_done_at_the_third_question",),
    ),
    Fault(
        "a stream waits for nothing",
        f"{DEVICES}streams.py",
        "self._wait(self.handle, event.handle, 0)",
        "(self.handle, event.handle, 0)",
        (f"{STREAMS}test_a_stream_waits_for_what_another_recorded",),
    ),
    Fault(
        "an empty copy fails the whole batch",
        f"{DEVICES}copies.py",
        "filled = [copy for copy in copies if copy.byte_size]",
        "filled = [copy for copy in copies]",
        (f"{SIMULATION}test_empty_copies_do_not_end_batched_ones",),
    ),
    Fault(
        "a batch of copies that was refused is lost",
        f"{DEVICES}copies.py",
        "            self._put_singly(filled, kind)  # some",
        "            self._put_singly([], kind)  # some",
        (f"{SIMULATION}test_a_batched_copy_that_is_refused_is_not_tried_again",),
    ),
    Fault(
        "copies are captured by one call",
        f"{DEVICES}copies.py",
        "if is_many and not self._is_captured(self._stream)[1]:",
        "if is_many:",
        (f"{GRAPHS}test_many_copies_can_be_captured",),
    ),
    Fault(
        "a failed capture goes on",
        f"{DEVICES}graphs.py",
        "            _discard(cuda.runtime().cudaStreamEndCapture(stream.handle))",
        "            pass",
        (f"{GRAPHS}test_a_function_that_fails_fails_the_capture_with_its_own_error",),
    ),
    Fault(
        "other threads are held to what a capture allows",
        f"{DEVICES}graphs.py",
        "cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal",
        "cudaStreamCaptureMode.cudaStreamCaptureModeGlobal",
        (f"{GRAPHS}test_another_thread_may_allocate_during_a_capture",),
    ),
    Fault(
        "the chunks before one that is refused stay pinned",
        f"{DEVICES}registration.py",
        "        except BaseException:\n            self.close()",
        "        except BaseException:\n            pass",
        (f"{MEMORY}test_all_is_registered_or_nothing",),
    ),
    Fault(
        "a copy may cross the border of two chunks",
        f"{DEVICES}registration.py",
        "        if not self.is_divided:",
        "        if self._chunks:",
        (f"{MEMORY}test_much_memory_is_registered_in_chunks",),
    ),
    Fault(
        "memory is given back twice",
        f"{DEVICES}owner.py",
        "        if self.is_closed:\n            return\n",
        "        if self.is_closed:\n            pass\n",
        (f"{STREAMS}test_what_is_closed_is_closed_once_and_says_so",),
    ),
)
