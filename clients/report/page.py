# SPDX-License-Identifier: Apache-2.0
"""A report as one page of HTML that needs nothing else: no script, no network, no file beside it. Nobody else knows jinja2.

Whatever comes from a run is text to the templates, which escape it; drawings alone are taken as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape
except ImportError as error:
    from ...ipc.errors import CallerError, Code

    raise CallerError(
        f"a report needs jinja2, which cannot be imported ({error}): pip install 'penstock[report]'", Code.UNSUPPORTED
    ) from error

from .attention import NOTHING
from .comparison import COMPARISON_NOTE
from .contents import Contents
from .explained import MEANINGS, STEPS
from .palette import by_role, variables

TEMPLATES = Path(__file__).parent / "templates"


def page(contents: Contents, drawings: Mapping[str, str]) -> str:
    """`drawings`: the SVG of each plot, by its name."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html").render(
        contents=contents,
        drawings={name: Markup(by_role(svg)) for name, svg in drawings.items()},  # noqa: S704 - of our own drawing, escaped there
        light=Markup(variables(is_dark=False)),  # noqa: S704 - constants
        dark=Markup(variables(is_dark=True)),  # noqa: S704
        nothing=NOTHING,
        comparison_note=COMPARISON_NOTE,
        steps=STEPS,
        meanings=MEANINGS,
    )


def _breakable(text: str) -> Markup:
    """Text that may go on in the next line behind a slash and a plus."""
    return Markup(re.sub(r"([/+])", r"\1<wbr>", str(escape(text))))  # noqa: S704 - escaped
