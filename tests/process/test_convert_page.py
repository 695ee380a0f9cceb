# SPDX-License-Identifier: Apache-2.0
"""docs/convert.md is walked from top to bottom, as the tour is."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_tour import Walk, blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "convert.md"


def test_the_page_on_converting(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'penstock[torch]'")
    page = list(blocks(PAGE.read_text()))
    assert sum(block.text.count("$ penstock convert") for block in page if block.kind == "console") == 4
    with Walk(tmp_path, PAGE) as walk:
        for block in page:
            walk.take(block)
