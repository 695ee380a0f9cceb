# SPDX-License-Identifier: Apache-2.0
"""The pure scheduler: events and the time in, commands out. See scheduler.py; the rule that closes a batch is batcher.py."""
