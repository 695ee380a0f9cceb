# SPDX-License-Identifier: Apache-2.0
"""Penstock beside other servers: what builds them, starts them, loads them by turns, and prints the table."""
