# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as it comes from training: where its weights lie, and what their keys begin with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.clients.convert.state_dicts import fitted, weights_in
from penstock.ipc.errors import CallerError

ONE, OTHER = np.ones(2), np.zeros(2)
OWN = {"dense.weight": OTHER, "norm.num_batches_tracked": np.int64(7)}
STATE = {"dense.weight": ONE, "norm.num_batches_tracked": np.int64(3)}


@pytest.mark.parametrize(
    "held",
    [
        STATE,
        {"state_dict": STATE, "ema_state_dict": {"dense.weight": OTHER}, "epoch": 3},
        {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}, "param_groups": []}},
        {"model": STATE, "model_ema": {"dense.weight": OTHER}},
        {"state_dict": {"model": STATE}},
        {"ema": STATE, "args": {"lr": 0.1}},
    ],
    ids=["alone", "beside an average", "of the tutorials", "of detectors", "twice wrapped", "under any name"],
)
def test_weights_are_found_under_the_names_of_training_programs(held: dict[str, Any]) -> None:
    assert weights_in("c.pth", held) == STATE


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({1: 2}, "holds no weights; its keys are 1"),
        ({}, "holds no weights; its keys are none"),
        ({"student": STATE, "teacher": STATE}, r"holds 2 state dicts \(student, teacher\), and none .*: let the function take"),
    ],
)
def test_what_holds_none_or_too_many_says_what_there_is(held: Any, said: str) -> None:
    with pytest.raises(CallerError, match=f"checkpoint c.pth {said}"):
        weights_in("c.pth", held)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_what_all_keys_begin_with_is_taken_off(prefix: str) -> None:
    assert fitted("c.pth", {f"{prefix}{key}": value for key, value in STATE.items()}, OWN) == STATE


def test_a_module_with_such_keys_of_its_own_keeps_them() -> None:
    own = {f"module.{key}": value for key, value in OWN.items()}
    state = {f"module.{key}": value for key, value in STATE.items()}
    assert fitted("c.pth", state, own) == state


def test_counters_that_only_training_needs_may_be_missing() -> None:
    assert fitted("c.pth", {"dense.weight": ONE}, OWN) == {"dense.weight": ONE, "norm.num_batches_tracked": np.int64(7)}
    with pytest.raises(CallerError, match=r"missing: dense.weight; unexpected: dense.bias"):
        fitted("c.pth", {"dense.bias": ONE, "norm.num_batches_tracked": np.int64(3)}, OWN)


def test_keys_that_do_not_fit_are_named() -> None:
    with pytest.raises(CallerError, match=r"does not fit the module: of another shape: dense.weight"):
        fitted("c.pth", {"dense.weight": np.ones(3)}, OWN)
    with pytest.raises(CallerError, match=r"missing: dense.weight, norm.num_batches_tracked; unexpected: other.weight"):
        fitted("c.pth", {"other.weight": ONE}, OWN)
