# SPDX-License-Identifier: Apache-2.0
"""A CUDA that is not there. It stands before the real package on the path of a test's process; see simulation/__init__.py."""
