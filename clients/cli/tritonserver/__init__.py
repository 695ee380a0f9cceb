# SPDX-License-Identifier: Apache-2.0
"""Triton's command line: its flags, how it writes their values, and what each of them means here."""
