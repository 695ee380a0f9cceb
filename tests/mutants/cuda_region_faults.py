# SPDX-License-Identifier: Apache-2.0
"""Faults of CUDA regions and pinned ones: who may register what, who is told when, what is closed too early or too late."""

from __future__ import annotations

from fault import Fault

BROKER = "runtime/device_regions.py"
BOOKS = "runtime/regions.py"
ADMISSION = "runtime/admission.py"
BINDINGS = "runtime/bindings.py"
PLACES = "runtime/region_checks.py"
WORKER = "workers/on_gpu/regions.py"
TABLE = "workers/region_table.py"
ARRAYS = "clients/device_arrays.py"
CAPSULES = "clients/capsules.py"

STORY = "tests/unit/runtime/test_device_regions.py::"
OPENED = "tests/contract/test_device_regions_of_workers.py::"
CLIENT = "tests/contract/test_device_memory_of_clients.py::"

FAULTS = (
    Fault(
        "a handle of zeros is taken",
        ADMISSION,
        "if not any(message.handle):",
        "if not message.handle:",
        (f"{STORY}test_what_cannot_be_cuda_memory_is_refused_at_once",),
    ),
    Fault(
        "cuda memory is registered before any instance has opened it",
        BROKER,
        "if region.gpu and told is not None:",
        "if region.gpu and told is None:",
        (f"{STORY}test_cuda_memory_is_registered_when_an_instance_has_opened_it",),
    ),
    Fault(
        "cuda memory goes to instances on any gpu",
        BROKER,
        'region.gpu in ("", instance.gpu)',
        'region.gpu != "-"',
        (f"{STORY}test_cuda_memory_that_no_instance_can_try_is_taken_on_trust",),
    ),
    Fault(
        "nobody is asked when the instance that tries a handle dies",
        BROKER,
        "if doubt.instance is instance]:",
        "if doubt.instance is not instance]:",
        (f"{STORY}test_when_the_instance_that_tries_it_dies_another_does",),
    ),
    Fault(
        "a placement in a region that was refused is remembered",
        BROKER,
        "session.bindings.clear()",
        "session.bindings.copy()",
        (f"{STORY}test_a_request_sent_before_the_answer_fails_with_the_region",),
    ),
    Fault(
        "unregister does not wait for the instances",
        BOOKS,
        "self._open[region.number] = set(told)",
        "self._tell_closed(region.number)",
        (f"{STORY}test_unregister_is_answered_when_no_instance_has_it_open",),
    ),
    Fault(
        "an instance that dies is waited for",
        BOOKS,
        "for number, instances in self._open.items() if instance in instances]",
        "for number, instances in self._open.items() if instance not in instances]",
        (f"{STORY}test_an_instance_that_dies_has_closed_everything",),
    ),
    Fault(
        "a model on the cpu gets cuda memory",
        PLACES,
        "if not model.gpus:",
        "if model.gpus is None:",
        (f"{STORY}test_a_model_on_the_cpu_cannot_reach_cuda_memory",),
    ),
    Fault(
        "text may lie on a gpu",
        PLACES,
        'if region.gpu and datatype == "BYTES":',
        'if region.gpu and datatype == "TEXT":',
        (f"{STORY}test_text_cannot_lie_in_cuda_memory",),
    ),
    Fault(
        "the broker reads cuda memory for the response cache",
        BINDINGS,
        "if model.uses_cache and not binding.gpu:",
        "if model.uses_cache:",
        (f"{STORY}test_what_lies_on_a_gpu_passes_the_response_cache_by",),
    ),
    Fault(
        "a region reaches beyond its allocation",
        WORKER,
        "if end > opened.base + opened.byte_size:",
        "if end > opened.base + 2 * opened.byte_size:",
        (f"{OPENED}test_a_region_must_lie_within_its_allocation",),
    ),
    Fault(
        "an allocation is closed with the first of its regions",
        WORKER,
        "if not opened.regions:\n            del",
        "if opened.regions:\n            del",
        (f"{OPENED}test_regions_of_one_allocation_share_what_is_opened",),
    ),
    Fault(
        "memory on another gpu than it was registered with is used",
        WORKER,
        "if lies_on != self._device.ordinal:",
        "if lies_on < 0:",
        (f"{OPENED}test_an_allocation_on_another_gpu_is_refused",),
    ),
    Fault(
        "memory stays pinned when it is unmapped",
        TABLE,
        "self.registration.close()",
        "self.registration.check_invariants()",
        (f"{OPENED}test_host_memory_is_pinned_when_it_is_mapped_and_not_after",),
    ),
    Fault(
        "the program's own gpu is changed",
        ARRAYS,
        "if before != ordinal:",
        "if before == ordinal:",
        (f"{CLIENT}test_a_program_s_own_choice_of_gpu_stays",),
    ),
    Fault(
        "the stride of a batch of one is taken seriously",
        ARRAYS,
        "if size != 1 and stride != expected:",
        "if stride != expected:",
        (f"{CLIENT}test_the_stride_of_a_dimension_of_one_means_nothing",),
    ),
    Fault(
        "a capsule does not keep its memory",
        CAPSULES,
        "    _hold(keeper)\n    return made",
        "    _hold(made)\n    return made",
        (f"{CLIENT}test_a_capsule_that_nobody_takes_keeps_nothing",),
    ),
)
