"""Sweeps as a user meets them: axes, exclude, include, -s, --only, and a plan of a hundred thousand jobs."""
import json
import os
import resource
import subprocess

import pytest
from conftest import KVRUN, MODELS, ROOT, fingerprint, run, sql

SWEEP = """\
kvrun: 1
experiment: sweep
model: {{ path: {model} }}
prompts:
  - name: [a, b]
    slots: {{ city: [SF, New York] }}
    text: "I am flying to {{{{city}}}} next week. Which city?"
axes:
  window: {{ windows: {{ size: 2 }} }}
  pos: {{ positions: {{ slot: city }} }}
  edit: {{ zip: {{ op: [zero, scale], tensor: [k, v] }}, names: [key, value] }}
  by: {{ from: 0, to: 0.5, step: 0.25 }}
conditions:
  - name: baseline
  - name: windows
    over: [window, edit]
    apply: [{{ op: zero, tensor: $edit.tensor, layers: $window, at: {{ slot: city }}, when: finished_cache }}]
  - name: places
    over: [pos, by]
    apply: [{{ op: scale, by: $by, layers: all, at: {{ tokens: [$pos] }}, when: finished_cache }}]
  - name: fewer
    extends: places
    over: [pos]
    apply: [{{ op: zero, layers: all, at: {{ tokens: [$pos] }}, when: finished_cache }}]
exclude:
  - {{ when: {{ by: 0.5, prompt: b }}, why: the first prompt is enough }}
include:
  - {{ condition: places, pos: 0, by: 2, prompt: b }}
decode: {{ max_tokens: 4, stop: none, after_edit: rerun_last }}
capture: {{ kv: [{{ of: [fewer], moments: [edited] }}] }}
metrics:
  - {{ name: first_divergence, against: baseline }}
allow: [W107]
run: {{ db: results.db }}
"""


@pytest.fixture
def sweep(tiny, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.format(model=tiny))
    return path


def labels(spec, *args):
    return [j["label"] for j in json.loads(run("plan", spec, "--json", *args).stdout)["jobs"]]


def test_axes_of_every_kind_end_up_in_labels_and_factors(sweep, tmp_path):
    db = tmp_path / "r.db"
    run(sweep, "--db", db)
    rows = sql(db, "SELECT sj.label, f.name, f.value, f.num FROM factor f JOIN spec_job sj ON sj.id = f.spec_job_id")
    of = {}
    for r in rows:
        of.setdefault(r["label"], {})[r["name"]] = (r["value"], r["num"])
    assert of["a/windows/window=0..1/edit=value"] == {
        "window": ("0..1", 1.0), "edit": ("value", None), "edit.op": ("scale", None), "edit.tensor": ("v", None)}
    assert of["a/windows/window=0/edit=key"]["window"] == ("0", 0.0)
    a = [v for v in of if v.startswith("a/places")]
    b = [v for v in of if v.startswith("b/places")]
    n_a, n_b = (len([v for v in of if v.startswith(f"{p}/fewer")]) for p in "ab")
    assert n_a < n_b, "the needles have as many tokens as there are positions"
    assert len(a) == 3 * n_a and len(b) == 2 * n_b + 1
    assert of["b/places/pos=0/by=2"]["by"] == ("2", 2.0)
    assert sql(db, "SELECT count(*) AS n FROM v_metric WHERE metric = 'first_divergence'")[0]["n"] == len(labels(sweep))


def test_a_window_is_the_layers_it_says(sweep, tmp_path):
    jobs = {j["label"]: j for j in json.loads(run("plan", sweep, "--json").stdout)["jobs"]}
    assert jobs["a/windows/window=0/edit=key"]["ops"][0]["layers"] == [0]
    assert jobs["a/windows/window=1..2/edit=key"]["ops"][0]["layers"] == [1, 2]
    assert jobs["a/windows/window=1..2/edit=key"]["axes"]["edit.op"] == "zero"


def test_set_stands_over_the_file_and_is_part_of_the_spec(sweep, tmp_path):
    db = tmp_path / "r.db"
    run(sweep, "--db", db, "-q")
    cut = labels(sweep, "--set", "axes.by=[0.7]", "--set=exclude=[{when: {prompt: b}, why: x}]")
    assert any(v.endswith("/by=0.7") for v in cut) and {v[0] for v in cut if "by=2" not in v} == {"a"}
    run(sweep, "--db", db, "-q", "-s", "decode.max_tokens=6", "-s", "conditions.1.name=wide")
    specs = sql(db, "SELECT identity_json, source_yaml FROM spec ORDER BY id")
    assert [s["source_yaml"] for s in specs] == [sweep.read_text()] * 2
    assert "set" not in json.loads(specs[0]["identity_json"])
    assert json.loads(specs[1]["identity_json"])["set"] == ["decode.max_tokens=6", "conditions.1.name=wide"]
    assert {r["n_gen"] for r in sql(db, "SELECT n_gen FROM v_result WHERE condition = 'wide'")} == {6}
    done = run("plan", sweep, "-s", "conditions.0.aply=[]", check=2)
    assert "-s conditions.0.aply: error E201: unknown key 'aply'" in done.stderr and "^~~~" in done.stderr
    assert "needs a value" in run("plan", sweep, "-s", check=2).stderr
    assert "New" in run("tokens", sweep, "a", "-s", "prompts.0.slots.city=[New Jersey, New York]").stdout
    missing = run("plan", sweep, "-s", "model.path=/no/such.gguf", check=3)
    assert missing.stderr.startswith("kvrun: -s model.path: no model at") or "-s model.path: no model at" in missing.stderr


def test_only_runs_what_is_asked_for_and_what_that_needs(sweep, tmp_path):
    db, whole = tmp_path / "r.db", tmp_path / "whole.db"
    done = run(sweep, "--db", db, "--only", "b/windows/window=0/*", "--only", "b/fewer/pos=[0-4]")
    asked = [v for v in labels(sweep) if v.startswith("b/windows/window=0/") or v.startswith("b/fewer/pos=") and len(v) == 13 and v[-1] < "5"]
    stored = {r["label"] for r in sql(db, "SELECT label FROM v_result")}
    assert stored == set(asked) | {"b/baseline"}, "the baseline is what first_divergence needs"
    assert "windows/window=0/edit=key" in done.stdout and "baseline" not in done.stdout and "places" not in done.stdout
    assert f"{len(asked)} jobs and 1 that they need of {len(labels(sweep))}" in done.stderr
    assert sql(db, "SELECT count(*) AS n FROM v_metric WHERE label = 'b/windows/window=0/edit=key'")[0]["n"] == 1
    run(sweep, "--db", db, "-q")
    run(sweep, "--db", whole, "-q")
    assert fingerprint(db) == fingerprint(whole)


def test_only_that_matches_nothing_says_what_there_is(sweep):
    words = run(sweep, "--only", "b/window/*", check=2).stderr
    assert "--only 'b/window/*': no job has such a label" in words
    assert "b/windows/window=0" in run("plan", sweep, "--only", "b/windws/window=0/edit=key", check=2).stderr
    assert "a/baseline" in run("plan", sweep, "--only", "zzzzzzzz", check=2).stderr
