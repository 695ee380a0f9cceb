# SPDX-License-Identifier: Apache-2.0
"""Measurements made readable: what `penstock report` does, for programs.

    reading.py -> choosing.py -> plots.py (records) -> drawing.py (the only one that knows matplotlib) -+-> page.py, templates/
         |                                                                                             |
         +------> tables.py, comparison.py, attention.py -> contents.py -------------------------------+-> markdown.py

`contents.py` says what is in a report; a page of HTML and one of Markdown say the same. The same runs make the same bytes.
"""
