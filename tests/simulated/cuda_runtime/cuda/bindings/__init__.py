# SPDX-License-Identifier: Apache-2.0
"""The simulated counterpart of cuda-bindings 13."""

__version__ = "13.0.0+simulated"
