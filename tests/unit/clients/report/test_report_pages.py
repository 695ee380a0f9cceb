# SPDX-License-Identifier: Apache-2.0
"""The two pages: every figure is on them, nothing of a run is markup, nothing else is needed, and they are the same each time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_documents import offline, row, run

from penstock.clients.perf.run_file import RowRecord, Run
from penstock.clients.report.contents import contents_of
from penstock.clients.report.markdown import markdown, plain
from penstock.clients.report.reading import numbered

pytest.importorskip("matplotlib", reason="needs matplotlib (the extra `report`)")
pytest.importorskip("jinja2", reason="needs jinja2 (the extra `report`)")

HOSTILE = "<script>alert(1)</script> \"&' | `x` [a](b) $5 and $6 _u_ 数字\x1b\nnext"
VOID = {"meta", "wbr"}
FEW = run([row(), row(4)])
TWO = (FEW, run([row(1, stable=False), row(4, failed=1)], title=HOSTILE))
FIGURE = re.compile(r"(-?[\d,]+(?:\.\d+)?)[†‡*\\]*")


@pytest.fixture(scope="module", autouse=True)
def fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Found and opened, which matplotlib does once in a process."""
    written(tmp_path_factory.mktemp("fonts"), run([row()], title="数"), run([row()]))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of two runs, one of them with all that stands out. Drawn once: drawing takes its time."""
    folder = tmp_path_factory.mktemp("report")
    written(folder, *TWO)
    return folder


class Page(HTMLParser):
    """What a browser makes of it, as far as it concerns us."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self._open):
            self.cells[-1] += data


def pages(*runs: Run) -> tuple[str, str]:
    """Without the drawings, which take their time."""
    from penstock.clients.report.page import page

    contents = contents_of(numbered(runs))
    names = [plot.name for plot in contents.plots]
    return page(contents, dict.fromkeys(names, "")), markdown(contents, dict.fromkeys(names, "plot.svg"))


def written(folder: Path, *runs: Run) -> tuple[str, str]:
    from penstock.clients.report.files import write_report

    html, beside = write_report(numbered(runs), folder)
    return html.read_text(encoding="utf-8"), beside.read_text(encoding="utf-8")


def figures(cells: Sequence[str]) -> set[float]:
    found = (FIGURE.fullmatch(cell.strip(" *")) for cell in cells)
    return {float(each[1].replace(",", "")) for each in found if each}


def shown(row: RowRecord) -> set[float]:
    """Every number of a row, with the decimals that a page has."""
    decimals = {"inferences_per_s": 2, "inferences_per_s_low": 2, "inferences_per_s_high": 2, "client_cpu_percent": 1}
    values = {name: getattr(row, name) for name in row.__struct_fields__ if not isinstance(getattr(row, name), bool | tuple)}
    return {round(value, decimals.get(name, 3)) for name, value in values.items() if value is not None}


def test_every_figure_of_every_run_is_on_both_pages() -> None:
    # Given two runs, with rows of every kind
    runs = (
        run([*offline((1, 8, 64), (1, 16)), row(2, 1, stable=False), row(4, 1, failed=3)]),
        run([row(1, 7, 120.5), row(1, 9, 240.0)], load="constant", title="open"),
    )
    # When they are reported
    html, text = pages(*runs)
    # Then each of their numbers is in a cell
    in_html = figures(Page(html).cells)
    in_markdown = figures([cell for line in text.splitlines() if line.startswith("|") for cell in line.split("|")])
    wanted = {value for each in runs for measured in each.rows for value in shown(measured)}
    assert len(wanted) > 100
    assert not wanted - in_html
    assert not wanted - in_markdown


def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    html = (report / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
        assert all((value or "").startswith("#") for name, value in attributes.items() if name.endswith("href")), tag
    assert not re.findall(r"url\((?!#)|@import", html)


def test_no_two_things_on_the_page_have_one_name_and_every_reference_leads_to_one(report: Path) -> None:
    html = (report / "report.html").read_text(encoding="utf-8")
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names)) > 50
    referred = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
    assert referred
    assert referred <= set(names)


def test_what_comes_from_a_run_is_never_markup(tmp_path: Path) -> None:
    # Given a run whose every text is hostile
    hostile = run(
        [row(notes=(HOSTILE,))], title=HOSTILE, command=HOSTILE, configuration={HOSTILE: HOSTILE},
        packages={HOSTILE: HOSTILE}, notes=(HOSTILE,), began=HOSTILE,
    )  # fmt: skip
    # When it is reported
    html, text = written(tmp_path, hostile)
    # Then it is text wherever it stands
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "".join(page.text).count("<script>alert(1)</script>") > 5
    outside_code = re.sub(r"^(`{3,})\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside_code
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in outside_code
    assert "\x1b" not in html + text


def test_a_cell_of_a_table_is_one_cell_whatever_is_in_it() -> None:
    _, text = pages(run([row(notes=(HOSTILE, "a|b\\|c"))], configuration={"Hardware": "x|y"}))
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) == 5
    for table in tables:
        assert len({len(re.split(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}) == 1


def test_a_command_with_backticks_stays_in_its_block() -> None:
    _, text = pages(run(command="a ```` b"))
    assert "\n`````\na ```` b\n`````\n" in text


def test_plain_text_is_what_it_was() -> None:
    assert plain("a_b*c|d\\e <f>") == r"a\_b\*c\|d\\e &lt;f&gt;"


def test_every_plot_of_the_markdown_page_is_a_file_beside_it_that_is_well_formed(report: Path) -> None:
    # Given two runs, so that their titles are in the legends
    text = (report / "report.md").read_text(encoding="utf-8")
    files = re.findall(r"^!\[.*\]\((.+)\)$", text, re.MULTILINE)
    assert sorted(files) == sorted(path.relative_to(report).as_posix() for path in (report / "report").iterdir())
    for file in files:
        root = ET.fromstring((report / file).read_text(encoding="utf-8"))
        assert "script" not in {each.tag.rpartition("}")[2] for each in root.iter()}
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.attrib["aria-label"]


def test_the_same_runs_make_the_same_bytes(report: Path) -> None:
    # Given a report; when a plot of each kind is drawn again, and the pages are made again
    from penstock.clients.report.drawing import draw

    plots = {type(plot): plot for plot in contents_of(numbered(TWO)).plots}
    # Then they are what they were
    assert len(plots) == 2
    for plot in plots.values():
        assert draw(plot) == (report / "report" / f"{plot.name}.svg").read_text(encoding="utf-8")
    assert pages(*TWO) == pages(*TWO)


def test_colours_are_those_of_the_ground_on_the_page_and_fixed_in_files(report: Path) -> None:
    html = (report / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in html
    drawings = re.findall(r"<svg .*?</svg>", html, re.DOTALL)
    assert drawings
    assert not [colour for drawing in drawings for colour in re.findall(r"(?:fill|stroke): (#\w+)", drawing)]
    assert all("var(" not in path.read_text(encoding="utf-8") for path in (report / "report").iterdir())


@pytest.mark.parametrize("rows", [[row(1, 1, 10.0)], [row(compute_infer_ms=0.0)], offline((1, 64), (1, 16, 4096))])
def test_few_rows_and_many_can_be_drawn(rows: Sequence[RowRecord]) -> None:
    from penstock.clients.report.drawing import draw

    plots = contents_of(numbered([run(rows, title=str(each)) for each in range(3)])).plots
    assert all(draw(plot).startswith("<svg ") for plot in plots[:: len(plots) // 2 or 1])
