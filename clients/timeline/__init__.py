# SPDX-License-Identifier: Apache-2.0
"""Traces: what became of requests and batches (`records.py`), as files for other tools, and drawn (`drawing.py`, `svg.py`)."""
