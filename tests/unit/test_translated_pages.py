# SPDX-License-Identifier: Apache-2.0
"""Pages in two languages say the same, as far as a machine can tell: the same commands, output, configurations, pictures, tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
TRANSLATED = sorted(DOCS.glob("*.zh.md"))
_SAME = re.compile(
    r"^```console\n.*?^```$|^#+ |^\| |`penstock[^`]*`|\d+(?:\.\d+)? ms|\]\(images/[^)]*\)",
    re.MULTILINE | re.DOTALL,
)
_NAMED = re.compile(r"`--?[\w-]+|`[\w./]+\.(?:pbtxt|onnx|plan|png)`")


def original(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh.md", ".md"))


def test_there_are_translations() -> None:
    assert TRANSLATED


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: str(page.name))
def test_a_translation_has_all_that_is_in_no_language(page: Path) -> None:
    translated, text = page.read_text(), original(page).read_text()
    assert _SAME.findall(translated) == _SAME.findall(text)
    assert set(_NAMED.findall(translated)) == set(_NAMED.findall(text))
    assert f"]({page.name})" in text and f"]({original(page).name})" in translated
