# SPDX-License-Identifier: Apache-2.0
"""How words and memory cross a process boundary.

Messages and their codec, the two kinds of link that carry them (unix stream sockets with file descriptors, ZeroMQ), regions
of shared memory as descriptors, and what the system says of the process at the other end. The broker, the workers and the
clients all stand on this package and meet nowhere else; it imports none of them.
"""
