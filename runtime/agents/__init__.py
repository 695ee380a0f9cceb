# SPDX-License-Identifier: Apache-2.0
"""The repository agents that come with Penstock; runtime/repository/agents.py is the seam, pyproject.toml names the classes."""
