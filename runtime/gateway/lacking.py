# SPDX-License-Identifier: Apache-2.0
"""What is said where a package that only gateways need is not installed."""

from __future__ import annotations

from ...ipc.errors import CallerError, Code


def lacking(error: ImportError) -> CallerError:
    """What to install, where importing something has failed with this."""
    return CallerError(
        f"a gateway needs {error.name}, which cannot be imported: pip install 'penstock[gateway]'", Code.UNSUPPORTED
    )
