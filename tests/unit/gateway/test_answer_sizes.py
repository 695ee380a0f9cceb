# SPDX-License-Identifier: Apache-2.0
"""How much room requests are sent with: what their like were answered, and none where that is of no use."""

from __future__ import annotations

from penstock.ipc.messages import OutputTensor
from penstock.runtime.gateway.answer_sizes import MOST_FORMS, AnswerSizes, form_of
from penstock.runtime.gateway.requests import InferRequest, Input, InRegion, Output


def came(byte_size: int, region: str = "") -> OutputTensor:
    return OutputTensor("y", "UINT8", [byte_size], region, 0, byte_size)


def test_room_is_what_outputs_took_the_last_time() -> None:
    sizes = AnswerSizes()
    assert sizes.guess("form") == 0
    sizes.learn("form", 0, [came(16), came(65)])
    assert sizes.guess("form") == 64 + 128
    # It stays while they come there, and grows when they do not fit any more
    sizes.learn("form", 192, [came(16, "r"), came(65, "r")])
    assert sizes.guess("form") == 192
    sizes.learn("form", 192, [came(16, "r"), came(300)])
    assert sizes.guess("form") == 64 + 320


def test_what_could_have_come_there_and_did_not_gets_no_room() -> None:
    sizes = AnswerSizes()
    sizes.learn("form", 0, [came(16), came(65)])
    sizes.learn("form", 192, [came(16, "r"), came(65)])
    assert sizes.guess("form") == 64
    sizes.learn("form", 64, [came(16)])
    assert sizes.guess("form") == 0
    # And is not tried again and again
    sizes.learn("form", 0, [came(16)])
    assert sizes.guess("form") == 0


def test_forms_differ_by_what_outputs_depend_on() -> None:
    def form(shape: int = 1, version: int = -1, *outputs: Output) -> object:
        return form_of(InferRequest("m", version, "id", [Input("x", "FP32", [shape], b"")], outputs))

    assert form() == form_of(InferRequest("m", -1, "other", [Input("x", "FP32", (1,), b"else")]))
    different = [form(), form(2), form(1, 1), form(1, -1, Output("y")), form(1, -1, Output("y", None, 3))]
    different.append(form(1, -1, Output("y", InRegion("r", 0, 1))))
    assert len(set(different)) == len(different)


def test_forms_are_not_remembered_without_end() -> None:
    sizes = AnswerSizes()
    for number in range(3 * MOST_FORMS):
        sizes.learn(number, 0, [came(1)])
    assert repr(sizes) == f"<AnswerSizes of {MOST_FORMS} forms>"
