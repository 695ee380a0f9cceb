# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics: `families.py` says what is measured, `exposition.py` writes it down, `door.py` answers scrapes."""
