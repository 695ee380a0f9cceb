# SPDX-License-Identifier: Apache-2.0
"""The broker: takes requests in, batches them per model, hands batches to worker processes, and answers.

`core.py` is the whole broker but its sockets, `broker.py` the event loop around it. `scheduling/` decides and is pure;
`repository/` reads Triton's model repositories; `fleet.py` keeps the workers.
"""
