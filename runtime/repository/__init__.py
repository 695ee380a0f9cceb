# SPDX-License-Identifier: Apache-2.0
"""Model repositories in Triton's layout: reading `config.pbtxt`, choosing versions, completing and checking configurations.

`directory.py` reads folders, `configuration.py` makes a ModelConfig of a text, `fields.py` says which keys of Triton's schema
this release implements (all others are refused by name), `schema.py` is the only file that touches protobuf.
"""
