# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's Multi-Process Service: a daemon of the broker's own, by which workers that share a GPU run on it at once."""
