# SPDX-License-Identifier: Apache-2.0
"""Triton's `--trace-config`, and the older flags that it took the place of."""

from __future__ import annotations
