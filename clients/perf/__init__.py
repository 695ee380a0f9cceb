# SPDX-License-Identifier: Apache-2.0
"""Measuring a model that is served: what `penstock perf` does, for programs.

    plan.py, search.py (which points) -> measuring.py -> generating.py -> closed_loop.py, open_loop.py (arrivals.py)
                                             |        or processes.py -> client_process.py: the same, several times
                                             |                                 +-> target.py <- targets/: the server, requests
                                             +-> load.py, stages.py, percentiles.py, confidence.py, notes.py -> figures.py

A plan says what to measure, a `Measurer` makes a `Row` of each of its points. docs/performance.md defines every figure.
"""
