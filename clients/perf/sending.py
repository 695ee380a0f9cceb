# SPDX-License-Identifier: Apache-2.0
"""Sending several requests at once, and when that was."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .target import Requests


def send(requests: Requests, numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """Sends them; each number with the moments at which its message was begun and sent. Raises PenstockError.

    Where each is a message of its own, the server has the first while the last is begun: they share no moments.
    """
    sent = []
    for together in [numbers] if requests.one_message else [[number] for number in numbers]:
        began_ns = time.monotonic_ns()
        requests.send(together)
        sent_ns = time.monotonic_ns()
        sent += [(number, began_ns, sent_ns) for number in together]
    return sent
