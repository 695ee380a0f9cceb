# SPDX-License-Identifier: Apache-2.0
"""What bench/gpu.py is made of: chains of kernels, raw floors, models, served paths, and how they are reported."""
