# SPDX-License-Identifier: Apache-2.0
"""`python -m penstock.clients.cli`: the same as `penstock`."""

from . import main

main(prog_name="penstock")
