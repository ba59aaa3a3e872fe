"""Sweeps as a user meets them: axes, exclude, include, -s, --only, and a plan of a hundred thousand jobs."""
import json
import os
import sqlite3
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


def test_only_computes_donors_and_whatever_numbers_are_made_of(tiny, tmp_path):
    spec, db = tmp_path / "needs.yaml", tmp_path / "r.db"
    spec.write_text(f"""\
kvrun: 1
experiment: needs
model: {{ path: {tiny} }}
prompts:
  - {{ name: [a, b], slots: {{ city: [SF, NY] }}, text: "I am flying to {{{{city}}}} next week. Which city?" }}
conditions:
  - name: baseline
  - name: zero
    apply: [{{ op: zero, layers: all, at: {{ slot: city }}, when: finished_cache }}]
  - name: from_zero
    apply:
      - {{ op: transplant, layers: all, at: {{ slot: city }}, from: {{ prompt: other, condition: zero }}, when: finished_cache }}
  - name: alone
    apply: [{{ op: scale, by: 2, layers: all, at: {{ slot: city }}, when: finished_cache }}]
decode: {{ max_tokens: 4, stop: none, after_edit: rerun_last }}
metrics:
  - {{ name: lead, logit_diff: [" SF", " NY"] }}
  - {{ name: back, recovery: lead, clean: {{ condition: baseline }}, corrupt: {{ prompt: other, condition: baseline }} }}
""")
    run(spec, "--db", db, "-q", "--only", "a/from_zero")
    assert {r["label"] for r in sql(db, "SELECT label FROM v_result")} == {"a/from_zero", "b/zero", "a/baseline", "b/baseline"}
    assert sql(db, "SELECT count(*) AS n FROM v_metric WHERE metric = 'back' AND label = 'a/from_zero'")[0]["n"] == 1


def test_only_that_matches_nothing_says_what_there_is(sweep):
    words = run(sweep, "--only", "b/window/*", check=2).stderr
    assert "--only 'b/window/*': no job has such a label" in words
    assert "b/windows/window=0" in run("plan", sweep, "--only", "b/windws/window=0/edit=key", check=2).stderr
    assert "a/baseline" in run("plan", sweep, "--only", "zzzzzzzz", check=2).stderr


def test_the_plan_counts_captures_and_why_jobs_run(sweep, tmp_path):
    db = tmp_path / "r.db"
    new = run("plan", sweep, "--db", db, "--reasons").stdout
    size = {"kB": 1e3, "MB": 1e6}
    words = new.split("KV to store ")[1].split()
    raw, different = float(words[0]) * size[words[1]], float(words[3]) * size[words[4]]
    assert "run       25\n" in new and "shared by 25 jobs" in new and "GB free" in new
    assert "-2 (the first prompt is enough), +1 include = 8 jobs" in new
    run(sweep, "--db", db, "-q")
    one = sql(db, "SELECT sum(raw_bytes) AS raw, (SELECT sum(raw_bytes) FROM (SELECT DISTINCT blob_id, raw_bytes FROM v_kv)) AS once FROM v_kv")[0]
    assert abs(one["raw"] - raw) < 1000 and 0.6 * different <= one["once"] <= different + 1000
    again = run("plan", sweep, "--db", db, "--reasons").stdout
    uuid = sql(db, "SELECT uuid FROM run")[0]["uuid"]
    assert f"reuse     25  answers are in the database: 25 from run {uuid[:8]}" in again
    more = run("plan", sweep, "--db", db, "--reasons", "-s", "capture.kv=[{of: [fewer, baseline], moments: [edited, end]}]").stdout
    assert "run        5  3 need capture end · 2 need capture edited end" in more
    states = {j["label"]: (j["reuse"], j["why"]) for j in json.loads(
        run("plan", sweep, "--db", db, "--json", "-s", "capture.kv=[{of: [fewer], moments: [end]}]").stdout)["jobs"]}
    assert states["a/fewer/pos=4"] == (False, "needs capture end") and states["a/baseline"] == (True, "stored")
    done = run(sweep, "--db", db, "-s", "capture.kv=[{of: [fewer], moments: [end]}]")
    assert "3 to run, 22 stored" in done.stderr
    con = sqlite3.connect(db)
    job = "(SELECT job_id FROM spec_job WHERE label = '%s')"
    con.execute("UPDATE attempt SET numerics = 'n0:old' WHERE job_id IN " + job % "a/baseline")
    con.execute("UPDATE attempt SET status = 'failed', error_code = 1, error_message = 'x' WHERE job_id IN " + job % "b/baseline")
    con.commit()
    con.close()
    assert "run        2  1 answered under other numerics · 1 failed before" in run("plan", sweep, "--db", db).stdout


BIG = """\
kvrun: 1
experiment: big
model: {{ path: {model} }}
prompts:
  - name: [a, b]
    slots: {{ city: [SF, NY] }}
    text: "I am flying to {{{{city}}}} next week. Which city? And then something of twenty five words or so, that we know and hear."
axes:
  layer: {{ layers: all }}
  tensor: [k, v, kv]
  pos: {{ from: 0, to: 24 }}
  by: {{ from: 0, to: 2.2, step: 0.01 }}
conditions:
  - name: baseline
  - name: scale
    over: [layer, tensor, pos, by]
    apply: [{{ op: scale, by: $by, tensor: $tensor, layers: [$layer], at: {{ tokens: [$pos] }}, when: finished_cache }}]
exclude: [{{ when: {{ by: 1, tensor: kv }}, why: that is the baseline }}]
decode: {{ max_tokens: 1, stop: none, after_edit: rerun_last }}
allow: [W107]
"""


def cost(*args):
    """Standard output, seconds of CPU and peak memory in bytes of one process."""
    p = subprocess.Popen([KVRUN, *map(str, args)], stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "KVRUN_MODELS": str(MODELS)})
    out = p.stdout.read()
    _, status, used = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    assert p.returncode == 0
    return out, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def test_a_hundred_thousand_jobs_are_planned_in_seconds(tiny, tmp_path):
    spec = tmp_path / "big.yaml"
    spec.write_text(BIG.format(model=tiny))
    for args in ([], ["--json"]):
        out, seconds, peak = cost("plan", spec, "--db", tmp_path / "none.db", *args)
        print(f"{args}: {seconds:.2f} s of CPU, {peak / 1e6:.0f} MB")
        assert seconds < 4 and peak < 1e9  # about 1 s on a quiet machine
        if args:
            assert len(json.loads(out)["jobs"]) == 2 + 2 * 3 * 25 * (3 * 221 - 1)
        else:
            assert b"= 99450, -150 (that is the baseline) = 99300 jobs" in out
