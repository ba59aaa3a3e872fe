"""kvrun report: the page in a browser, and its numbers against the SQL that it prints."""
import html.parser
import re

import pytest

from browser import CHROMIUM, Page
from conftest import run, sql


class Report(html.parser.HTMLParser):
    """Every <data> number, and every printed query, by the nearest part that holds both."""

    def __init__(self, text):
        super().__init__()
        self.parts, self.stack, self.in_sql, self.sql_open = [], [], False, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("section", "article"):
            self.stack.append({"numbers": [], "queries": [], "id": attrs.get("id", tag)})
        elif tag == "data":
            self.stack[-1]["numbers"].append(float(attrs["value"]))
        elif tag == "pre" and self.sql_open:
            self.in_sql = True
            self.stack[-1]["queries"].append("")
        elif tag == "details":
            self.sql_open = attrs.get("class") == "sql"

    def handle_endtag(self, tag):
        if tag in ("section", "article"):
            self.parts.append(self.stack.pop())
        elif tag == "pre":
            self.in_sql = False
        elif tag == "details":
            self.sql_open = False

    def handle_data(self, data):
        if self.in_sql:
            self.stack[-1]["queries"][-1] += data


def every_number_is_in_its_sql(db, page):
    report = Report(page.read_text())
    checked = 0
    for part in report.parts:
        if not part["numbers"]:
            continue
        found = []
        for query in part["queries"]:
            for row in sql(db, query):
                found += [v for v in row.values() if isinstance(v, (int, float))]
        found.sort()
        for number in part["numbers"]:  # a scale ends at plus and minus the largest
            assert any(abs(abs(number) - abs(v)) <= 1e-6 * max(1e-30, abs(number)) for v in found), (part["id"], number, part["queries"])
            checked += 1
    return checked


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory):
    """The report of a sweep over layers with captured caches, on the tiny model."""
    from conftest import TINY_SPEC
    folder = tmp_path_factory.mktemp("report")
    spec = folder / "tiny.yaml"
    spec.write_text(TINY_SPEC.format(model=tiny, kv="f32", tokens=8, after="rerun_last"))
    run(spec, "--db", folder / "r.db", "-q")
    run("report", spec, "--db", folder / "r.db", "-o", folder / "r.html")
    return folder / "r.html"


def test_every_number_on_the_page_is_found_again_by_its_sql(page):
    assert every_number_is_in_its_sql(page.parent / "r.db", page) > 50


def test_the_page_holds_what_it_promises(page):
    text = page.read_text()
    for part in ("controls", "outcome", "sweeps", "caches", "costs", "provenance", "spec"):
        assert f"<section id={part}>" in text
    assert "a/baseline (prefill) minus b/baseline (prefill)" in text
    assert "a/zero (edited) minus a/baseline (prefill)" in text
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text)


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_the_page_in_a_browser(page):
    with Page(page) as p:
        for width, height in ((1280, 900), (390, 844)):
            for dark in (False, True):
                p.size(width, height, dark)
                assert p.ask("document.documentElement.scrollWidth") <= width, "the page is wider than the screen"
                assert len(p.picture()) > 10000
        background = p.ask("getComputedStyle(document.body).backgroundColor")
        p.size(1280, 900)
        assert p.ask("getComputedStyle(document.body).backgroundColor") != background
        # All pictures are there, and the slider puts another layer's in place, by keyboard too.
        assert p.ask("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        before = p.ask("document.querySelector('.layers img').src")
        p.ask("document.querySelector('.layers input').focus()")
        p.key("ArrowLeft")
        assert p.ask("document.querySelector('.layers output').textContent") == "layer 0"
        after = p.ask("document.querySelector('.layers img').src")
        assert before != after and after.startswith("data:image/png")
        assert p.errors == []


def test_what_cannot_be_reported_is_said(tmp_path, tiny_spec):
    assert "report needs -o" in run("report", "x.db", check=2).stderr
    assert "missing.db" in run("report", tmp_path / "missing.db", "-o", tmp_path / "x.html", check=4).stderr
    spec = tiny_spec(tokens=2)
    run(spec, "--db", tmp_path / "r.db", "-q")
    assert "no experiment 'other'" in run("report", tmp_path / "r.db", "--experiment", "other", "-o", tmp_path / "x.html",
                                          check=5).stderr
    assert "cannot write" in run("report", tmp_path / "r.db", "-o", tmp_path / "no" / "x.html", check=2).stderr
    assert not (tmp_path / "x.html").exists()


def test_hostile_text_stays_text(tiny, tmp_path):
    spec = tmp_path / "h.yaml"
    spec.write_text(f"""kvrun: 1
experiment: hostile
title: "</title><script>document.title='taken'</script>"
model: {{ path: {tiny} }}
prompts: [{{ name: p, text: "<img src=x onerror=alert(1)> & </script>" }}]
conditions: [{{ name: baseline }}]
decode: {{ max_tokens: 4, stop: none }}
metrics: [{{ name: m, mentions: {{ any: ["<b>"] }} }}]
run: {{ db: results.db }}
""")
    run(spec, "--db", tmp_path / "h.db", "-q")
    run("report", tmp_path / "h.db", "-o", tmp_path / "h.html")
    text = (tmp_path / "h.html").read_text()
    assert text.count("<script>") == 1 and "<img src=x" not in text and "&lt;/title&gt;" in text
