# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics: `families.py` and `machine.py` say what is measured, `exposition.py` writes it, `door.py` answers."""
