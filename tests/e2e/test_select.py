"""Selectors and haystacks as a user meets them: kvrun tokens, runs, and what the database says of them."""
import json

import pytest
from conftest import run, sql

SPEC = """\
kvrun: 1
experiment: where
model: {{ path: {model} }}
prompts:
  - name: [a, b]
    slots: {{ city: [SF, NY] }}
    chat:
      - user: "I am flying to {{{{city}}}} next week."
      - assistant: "Okay, {{{{city}}}}."
      - user: "Which city?"
    ask: assistant
axes: {{ pos: [1, 2] }}
conditions:
  - name: baseline
  - name: turn
    apply: [{{ op: mask, at: {{ role: user, turn: 1 }}, when: finished_cache }}]
  - name: between
    apply: [{{ op: zero, at: {{ between: [{{ slot: city, nth: 1 }}, {{ slot: city, nth: 2 }}] }}, when: finished_cache }}]
  - name: one
    over: [pos]
    apply: [{{ op: zero, at: {{ slot: city, nth: $pos }}, when: finished_cache }}]
  - name: inside
    apply: [{{ op: zero, at: {{ regex: "fly", edges: include }}, when: finished_cache }}]
decode: {{ max_tokens: 4, stop: none, after_edit: rerun_last }}
"""


@pytest.fixture
def spec(tiny, tmp_path):
    path = tmp_path / "where.yaml"
    path.write_text(SPEC.format(model=tiny))
    return path


def selectors(spec, prompt):
    v = json.loads(run("tokens", spec, prompt, "--json").stdout)
    return v, {(s["condition"], s["axes"]): s for s in v["selectors"]}


def test_tokens_shows_what_each_selector_hits(spec):
    v, hits = selectors(spec, "a")
    text = [t["text"] for t in v["tokens"]]

    def said(key):
        return "".join(text[i] for i in hits[key]["at"])
    assert said(("turn", "")) == "I am flying to SF next week."
    assert "next week." in said(("between", "")) and "SF" not in said(("between", ""))
    assert hits[("one", "pos=1")]["at"] != hits[("one", "pos=2")]["at"]
    assert "fly" in said(("inside", ""))
    shown = run("tokens", spec, "a").stdout
    assert "selectors\n" in shown and "slot city nth 2" in shown and "(pos=2)" in shown


def test_compare_marks_what_differs(spec):
    shown = run("tokens", spec, "a", "b", "--compare").stdout
    marked = [line for line in shown.splitlines() if line.startswith("*")]
    lines = json.loads(run("tokens", spec, "--compare", "--json").stdout)
    assert len(marked) == sum(not line["same"] for line in lines) > 0
    for line in lines:
        assert line["same"] or line["a"] is None or line["b"] is None or line["a"] == line["b"]
    assert "needs two prompts" in run("tokens", spec, "a", "a", "--compare", check=2).stderr


def test_what_was_selected_is_what_was_edited(spec, tmp_path):
    db = tmp_path / "r.db"
    run(spec, "--db", db)
    _, hits = selectors(spec, "b")
    rows = sql(db, "SELECT sj.label, i.positions_json FROM spec_job sj JOIN intervention i USING (job_id) WHERE sj.label LIKE 'b/%'")
    got = {r["label"]: json.loads(r["positions_json"]) for r in rows}
    assert got["b/turn"] == hits[("turn", "")]["at"]
    assert got["b/one/pos=2"] == hits[("one", "pos=2")]["at"]
    assert got["b/inside"] == hits[("inside", "")]["at"]


HAYSTACK = """\
kvrun: 1
experiment: hay
model: {{ path: {model} }}
files: {{ text: {{ path: texts }} }}
axes: {{ ctx: [150, 300], depth: [0, 50, 100], tensor: [k, v] }}
prompts:
  - name: hay
    slots:
      hay:
        haystack: {{ file: text, tokens: $ctx, depth_percent: $depth }}
        needle: {{ name: needle, text: "The secret word is cinnamon." }}
    text: "{{{{hay}}}} What is the secret word?"
exclude: [{{ when: {{ ctx: 300, depth: 50 }}, why: enough }}]
conditions:
  - name: baseline
  - name: hide
    apply: [{{ op: mask, at: {{ slot: needle }}, when: prefill }}]
  - name: zero
    over: [tensor]
    apply: [{{ op: zero, tensor: $tensor, at: {{ slot: needle }}, when: finished_cache }}]
controls: [noop, self_transplant, {{ non_needle: {{ seed: 1 }} }}, absent]
decode: {{ max_tokens: 3, stop: none, after_edit: rerun_last }}
metrics: [{{ name: first_divergence, against: baseline }}]
"""


def test_a_haystack_runs_and_its_needle_is_a_span(tiny, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("A river ran by. It was slow and brown. " * 40)
    spec, db = tmp_path / "hay.yaml", tmp_path / "r.db"
    spec.write_text(HAYSTACK.format(model=tiny))
    run(spec, "--db", db)
    labels = {r["label"] for r in sql(db, "SELECT label FROM v_result")}
    assert len(labels) == 5 * (1 + 1 + 2 + 2 + 2 + 2)  # baseline, hide, zero; two that are equal, non_needle; absent, without
    verdicts = [r["verdict"] for r in sql(db, "SELECT verdict FROM v_control")]
    assert sorted(verdicts) == ["pass"] * 15 + ["shown"] * 10
    assert {"hay/baseline/ctx=150/depth=50", "hay/zero/ctx=300/depth=100/tensor=v", "hay/noop/ctx=300/depth=0"} <= labels
    for r in sql(db, "SELECT sp.name, sp.variant, p.n_tokens, p.text, ps.byte_start, ps.byte_end FROM spec_prompt sp "
                     "JOIN prompt p ON p.id = sp.prompt_id JOIN prompt_span ps ON ps.spec_prompt_id = sp.id WHERE ps.name = 'needle'"):
        ctx = int(r["variant"].split("/")[0].split("=")[1])
        assert r["name"] == "hay" and ctx - 40 < r["n_tokens"] <= ctx
        assert r["text"][r["byte_start"]:r["byte_end"]] == "The secret word is cinnamon."
    # noop equals the baseline to the bit, prompt by prompt
    rows = sql(db, "SELECT label, group_concat(token_id || ':' || logprob) AS steps FROM v_token GROUP BY label")
    steps = {r["label"]: r["steps"] for r in rows}
    for label in labels:
        if "/noop/" in label:
            assert steps[label] == steps[label.replace("noop", "baseline")]
    # another text is another question: nothing is answered from before
    assert "reuse     50" in run("plan", spec, "--db", db).stdout
    (tmp_path / "texts/a.txt").write_text("A road ran by. It was long and grey. " * 40)
    assert "run       50" in run("plan", spec, "--db", db).stdout


def test_the_shipped_sweep_finds_the_needle_behind_the_text(smollm2, tmp_path):
    db = tmp_path / "depth.db"
    run("experiments/depth_sweep.yaml", "--db", db)
    found = {r["label"]: r["value"] for r in sql(db, "SELECT label, value FROM v_metric WHERE metric = 'recall'")}
    assert len(found) == 27
    for ctx in (256, 1024, 2040):
        assert found[f"niah/baseline/ctx={ctx}/depth=100"] == 1
        assert found[f"niah/without/ctx={ctx}/depth=100/edit=mask"] == 0
    n = sql(db, "SELECT max(n_prompt) AS most, min(n_prompt) AS least FROM v_result")[0]
    assert 200 < n["least"] <= 256 and 2000 < n["most"] <= 2040
