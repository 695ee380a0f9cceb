# SPDX-License-Identifier: Apache-2.0
"""Faults of TensorRT plans: graphs that should not be used, memory that is another's, reasons that are lost."""

from __future__ import annotations

from fault import Fault

PLANS = "workers/backends/plans/"
PLAN = "tests/contract/test_tensorrt_plans.py::"
CORNER = "tests/contract/test_tensorrt_corners.py::"
BINDING = "tests/contract/test_tensorrt_bindings.py::"

FAULTS = (
    Fault(
        "what lies behind a batch is not made zero",
        f"{PLANS}stations.py",
        "            if filled < read and (begin > filled or end < read):",
        "            if filled > read:",
        (f"{CORNER}test_rows_behind_a_batch_are_zeros_for_its_graph",),
    ),
    Fault(
        "zeros are written behind every batch",
        f"{PLANS}stations.py",
        "            if filled < read and (begin > filled or end < read):",
        "            if filled < read:",
        (f"{CORNER}test_zeros_are_written_only_where_something_may_lie",),
    ),
    Fault(
        "a graph is launched for tensors that lie elsewhere",
        f"{PLANS}stations.py",
        "            if tensor is not None and tensor.address != self.sources[number] and number not in self._own_sources:",
        "            if tensor is None and number not in self._own_sources:",
        (f"{PLAN}test_tensors_outside_of_the_slot_are_read_and_written_where_they_lie",),
    ),
    Fault(
        "a graph with wrong results is used",
        f"{PLANS}capturing.py",
        "        wrong = self._compare(station, prepared, graph, lowest)",
        '        wrong = ""',
        (f"{CORNER}test_graphs_that_a_later_capture_spoilt_are_not_used",),
    ),
    Fault(
        "padding is not tried before it is used",
        f"{PLANS}capturing.py",
        "            wrong = self._compare(station, prepared, graph, smaller[0])",
        '            wrong = ""',
        (f"{CORNER}test_a_model_whose_rows_know_each_other_has_graphs_for_full_batches_only",),
    ),
    Fault(
        "where profiles are not shared, graphs share the context of plain execution",
        f"{PLANS}executions.py",
        "                context = self._engines.context(profile.number, self._stream, self._memory)\n                execution = self._of_graphs",
        "                return self.on(profile)\n                execution = self._of_graphs",
        (f"{CORNER}test_graphs_that_a_later_capture_spoilt_are_not_used",),
    ),
    Fault(
        "an output that is too large for its place goes there",
        f"{PLANS}stations.py",
        "        if place is not None and place.byte_size == size:",
        "        if place is not None:",
        (f"{CORNER}test_an_output_that_does_not_fit_its_place_lands_in_memory_of_its_own",),
    ),
    Fault(
        "what a callback raised is forgotten",
        f"{PLANS}memory.py",
        "            self.failure = error\n            return 0",
        "            del error\n            return 0",
        (f"{CORNER}test_no_memory_for_an_unknown_shape_is_said_as_such",),
    ),
    Fault(
        "shapes are set only once",
        f"{PLANS}executions.py",
        "        if shapes == self._shapes:",
        "        if self._shapes is not None:",
        (
            f"{PLAN}test_tensors_outside_of_the_slot_are_read_and_written_where_they_lie",
            f"{PLAN}test_every_batch_size_is_computed_in_every_slot",
        ),
    ),
    Fault(
        "a profile that another context has fails the load",
        f"{PLANS}engines.py",
        "                except RuntimeError:  # the binding's word for no",
        "                except LookupError:  # the binding's word for no",
        (f"{BINDING}test_a_profile_that_another_context_has_is_told_by_an_exception[8.5]",),
    ),
    Fault(
        "what TensorRT only warned of is no reason",
        f"{PLANS}library.py",
        "dict.fromkeys(self._errors or self._warnings)",
        "dict.fromkeys(self._errors)",
        (f"{BINDING}test_without_a_gpu_the_reason_may_be_a_warning_only[8.5]",),
    ),
    Fault(
        "graphs are compared by outputs that nobody gets",
        f"{PLANS}capturing.py",
        "enumerate(self._positions) if position >= 0]",
        "enumerate(self._positions)]",
        (f"{BINDING}test_an_output_that_is_left_out_need_not_have_rows",),
    ),
    Fault(
        "shapes that do not go together are no error of the batch",
        f"{PLANS}executions.py",
        "        except (RuntimeError, ValueError) as error:",
        "        except LookupError as error:",
        (f"{BINDING}test_shapes_that_do_not_go_together_fail_their_batch_with_the_reason_of_the_log",),
    ),
    Fault(
        "host code of a plan runs unasked",
        "workers/backends/tensorrt_plan.py",
        '_FLAGS = {"": False,',
        '_FLAGS = {"": True,',
        (f"{CORNER}test_host_code_runs_only_where_it_is_allowed",),
    ),
)
