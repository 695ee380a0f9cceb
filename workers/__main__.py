# SPDX-License-Identifier: Apache-2.0
"""`python -m penstock.workers`: see main.py."""

from __future__ import annotations

import sys

from .main import main

sys.exit(main())
