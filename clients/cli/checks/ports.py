# SPDX-License-Identifier: Apache-2.0
"""Whether Triton's usual ports are free, which its clients try where nobody says otherwise."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from .finding import Finding, Verdict

USUAL = (("HTTP", "--http-port", 8000), ("gRPC", "--grpc-port", 8001))


def usual_ports() -> Iterator[Finding]:
    """Ports of Triton's clients: of this machine only, 127.0.0.1."""
    from ....runtime.gateway_ports import Place, check_free

    for protocol, option, port in USUAL:
        try:
            check_free(Place("127.0.0.1", port))
        except OSError as error:
            yield judge_port(protocol, option, port, error.errno)
        else:
            yield judge_port(protocol, option, port, None)


def judge_port(protocol: str, option: str, port: int, refused: int | None) -> Finding:
    """`refused`: the error number of binding it."""
    what = f"port {port}, {protocol}"
    if refused is None:
        return Finding(what, Verdict.OK, "free")
    if refused != errno.EADDRINUSE:
        return Finding(
            what, Verdict.NOTE, f"cannot be bound ({errno.errorcode.get(refused, refused)})", f"{option} {port} fails"
        )
    consequence = f"a gateway of yours serves there, or another server does, and then {option} {port} fails"
    return Finding(what, Verdict.NOTE, "taken", consequence, f"another port by {option}, or end what has it: ss -ltnp")
