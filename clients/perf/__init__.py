# SPDX-License-Identifier: Apache-2.0
"""Measuring a model that is served: what `penstock perf` does, for programs.

    plan.py -> measuring.py -> requests.py (inputs in memory) -> load.py (keeps them in flight)
                   |
                   +-> server.py (what the broker counted) -> stages.py, percentiles.py (pure) -> figures.py -> run_tables.py

A plan says what to measure, a `Measurer` makes a `Row` of each of its points. docs/performance.md defines every figure.
"""
