# SPDX-License-Identifier: Apache-2.0
"""What the simulated TensorRT packages 8.5 and 11 have in common. None of it is NVIDIA's code, nor computes on a GPU.

A plan is a description in JSON of a small network (networks.py), executed with numpy by the simulated CUDA runtime, late. What
differs between the versions is in the two packages themselves; members are those of the real packages, or fewer.

What TensorRT punishes, or leaves undefined, is an error here: see contexts.py.
"""
