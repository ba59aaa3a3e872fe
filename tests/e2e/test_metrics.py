"""Metrics against numpy on exported arrays, the verdicts of controls, and files of the schema before."""
import json
import math
import random
import re
import sqlite3

import numpy as np
import pytest
from conftest import ROOT, assert_clean, run, sql
from test_flight import export

TEXT = "I am flying to {{city}} next week. Think about it, but do not answer yet. Which city am I flying to? You are flying to"
SPEC = """\
kvrun: 1
experiment: metrics
model: {{ path: {model}, kv: {kv} }}
prompts:
  - name: [a, b]
    slots: {{ city: [SF, NY] }}
    text: "{text}"
axes: {{ layer: {{ layers: all }} }}
conditions:
  - name: baseline
  - name: zero
    apply: [{{ op: zero, layers: all, at: {{ slot: city }}, when: finished_cache }}]
  - name: patch
    over: [layer]
    apply:
      - {{ op: transplant, tensor: resid, layers: [$layer], at: {{ slot: city }}, from: {{ prompt: other }}, when: prefill }}
  - name: again
    over: [layer]
    apply:
      - {{ op: transplant, tensor: resid, layers: [$layer], at: {{ slot: city }}, from: {{ prompt: other }}, when: prefill }}
controls: [noop, self_transplant]
decode: {{ max_tokens: {tokens}, stop: none, after_edit: {after} }}
capture:
  kv:
    - {{ of: [baseline], moments: [prefill, end] }}
    - {{ of: [zero], moments: [edited, end] }}
    - {{ of: [patch], moments: [prefill] }}
{metrics}
allow: [W109]
"""
METRICS = """\
metrics:
  - { name: says, mentions: { any: [a, the] } }
  - { name: kl, against: baseline, per: step }
  - { name: logprob_diff, against: baseline, per: step }
  - { name: mean_kl, kl: , against: baseline }
  - { name: kl_zero, kl: , against: zero, per: step }
  - { name: logit, logit: " a" }
  - { name: logprob, logprob: { a: " a", b: " the", which: own } }
  - { name: prob, prob: { a: " a", b: " the", which: other }, step: 3 }
  - { name: rank, rank: " a", step: 5 }
  - { name: diff, logit_diff: [" a", " the"] }
  - { name: own_diff, logit_diff: { a: " a", b: " the" }, step: 2 }
  - { name: late_diff, logit_diff: [" a", " the"], step: 7 }
  - { name: recovery, recovery: diff, clean: { prompt: other, condition: baseline }, corrupt: baseline }
  - { name: of_zero, recovery: late_diff, clean: zero, corrupt: baseline }
  - { name: nothing, recovery: diff, clean: baseline, corrupt: baseline }
  - { name: chars, edit_distance: , against: baseline }
  - { name: tokens, edit_distance: , against: baseline, unit: token }
  - { name: l2, kv_delta: l2, against: baseline, of: [zero, patch], per: [layer, position, head, tensor] }
  - { name: cosine, kv_delta: cosine, against: baseline, of: [zero, patch], per: [layer, tensor] }
  - { name: max, kv_delta: max, against: baseline, of: [patch], moment: prefill, per: [position, head] }
  - { name: at_end, kv_delta: l2, against: baseline, of: [zero], moment: end }
  - { name: two, kv_delta: cosine, between: [a/baseline, b/baseline], moment: prefill, per: [head] }
  - { name: state_size, per: layer }
"""
ANSWERS = {"a": " ", "b": " the"}  # the first tokens; those of " a" are " " and "a"
STEPS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import tiny_gguf
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    tiny_gguf.write_model(str(path), seed=3, type="f32", spread=0.2)
    return path


def write_spec(path, model, metrics=METRICS, kv="f32", tokens=STEPS, after="rerun_last"):
    path.write_text(SPEC.format(model=model, kv=kv, tokens=tokens, after=after, metrics=metrics, text=TEXT))
    return path


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    spec, db = write_spec(folder / "m.yaml", model), folder / "r.db"
    shown = run(spec, "--db", db)
    assert "controls: 4 of 4 bit-equal" in shown.stderr
    return spec, db, shown


def values(db, metric):
    return {r["label"]: r["value"] for r in sql(db, f"SELECT label, value FROM v_metric WHERE metric='{metric}'")}


def steps(db, metric):
    out = {}
    for r in sql(db, f"SELECT label, step, value FROM v_metric_part WHERE metric='{metric}' ORDER BY label, step"):
        assert r["step"] == len(out.setdefault(r["label"], []))
        out[r["label"]].append(r["value"])
    return out


def token_ids(db, prompt):
    return [r["token_id"] for r in sql(db, f"SELECT token_id FROM v_prompt_token WHERE prompt='{prompt}' ORDER BY pos")]


def new_tokens(db, label):
    return [r["token_id"] for r in sql(db, f"SELECT token_id FROM v_token WHERE label='{label}' ORDER BY step")]


def id_of(db, text):
    con = sqlite3.connect(db)
    found = con.execute("SELECT token_id FROM token WHERE display=?", (text,)).fetchall()
    con.close()
    assert len(found) == 1, text
    return found[0][0]


FORCED = """\
kvrun: 1
experiment: forced
model: {{ path: {model} }}
prompts:
  - {{ name: here, tokens: {here} }}
  - {{ name: donor, tokens: {donor} }}
axes: {{ layer: {{ layers: all }} }}
conditions:
  - name: baseline
  - name: patch
    over: [layer]
    apply: [{{ op: transplant, tensor: resid, layers: [$layer], at: {{ tokens: {at} }}, from: {{ prompt: donor }}, when: prefill }}]
decode: {{ max_tokens: 1 }}
capture: {{ tensors: [{{ tensors: [logits] }}] }}
"""


def forced_logits(db, model, prompt, label, tmp_path, name):
    """Logits (steps, V) of baseline and patches while the prompt and then the tokens of `label` are fed as one prompt."""
    other = "b" if prompt == "a" else "a"
    ids, donor, new = token_ids(db, prompt), token_ids(db, other), new_tokens(db, label)
    at = [i for i in range(len(ids)) if ids[i] != donor[i]]
    spec = tmp_path / f"{name}.yaml"
    spec.write_text(FORCED.format(model=model, here=ids + new[:-1], donor=donor + new[:-1], at=at))
    out = tmp_path / f"{name}.db"
    run(spec, "--db", out)
    logits = {}
    for label in ["baseline"] + [f"patch/layer={i}" for i in range(3)]:
        tensors, meta = export(out, f"here/{label}", "pass", tmp_path)
        assert meta["positions"]["logits"] == list(range(len(ids + new) - 1))
        logits[label] = tensors["logits"][len(ids) - 1:].astype(np.float64)
    return logits


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("prompt", ["a", "b"])
def test_kl_and_logprob_diff_are_numpys(prompt, done, model, tmp_path):
    _, db, _ = done
    kl, diff, means = steps(db, "kl"), steps(db, "logprob_diff"), values(db, "kl")
    new = new_tokens(db, f"{prompt}/baseline")
    logits = forced_logits(db, model, prompt, f"{prompt}/baseline", tmp_path, "forced")
    p = log_softmax(logits["baseline"])
    for i in range(3):
        label = f"{prompt}/patch/layer={i}"
        q = log_softmax(logits[f"patch/layer={i}"])
        expected = (np.exp(p) * (p - q)).sum(axis=-1)
        assert np.abs(np.array(kl[label]) - expected).max() < 1e-5
        assert abs(means[label] - expected.mean()) < 1e-5
        expected = np.array([q[s, t] - p[s, t] for s, t in enumerate(new)])
        assert np.abs(np.array(diff[label]) - expected).max() < 1e-5
        assert abs(values(db, "logprob_diff")[label] - expected.mean()) < 1e-5
    assert max(kl[f"{prompt}/patch/layer=0"]) > 1e-3  # there was something to measure
    assert kl[f"{prompt}/baseline"] == kl[f"{prompt}/noop"] == kl[f"{prompt}/self_transplant"] == [0.0] * STEPS
    assert values(db, "mean_kl") == means
    assert sql(db, "SELECT count(*) AS n FROM v_metric_part WHERE metric='mean_kl'")[0]["n"] == 0


def test_differences_are_those_of_the_stored_numbers_until_the_texts_part(done):
    _, db, _ = done
    diff, rows = steps(db, "logprob_diff"), {}
    for r in sql(db, "SELECT label, token_id, logprob FROM v_token ORDER BY label, step"):
        rows.setdefault(r["label"], []).append((r["token_id"], r["logprob"]))
    compared = 0
    for label, theirs in diff.items():
        base = rows[label[0] + "/baseline"]
        for (token, logprob), (other, reference), d in zip(rows[label], base, theirs):
            if token != other:
                break
            assert abs(d - (logprob - reference)) < 1e-5
            compared += 1
    assert compared > 100
    # against zero: what is fed is its text, so that zero's own numbers stand on one side
    assert steps(db, "kl_zero")["a/zero"] == [0.0] * STEPS
    assert max(steps(db, "kl_zero")["a/baseline"]) > 0


@pytest.mark.parametrize("prompt", ["a", "b"])
def test_answers_are_numpys(prompt, done, model, tmp_path):
    _, db, _ = done
    ids = {p: id_of(db, t) for p, t in ANSWERS.items()}
    own, other = ids[prompt], ids["b" if prompt == "a" else "a"]
    for condition in ["baseline"] + [f"patch/layer={i}" for i in range(3)]:
        label = f"{prompt}/{condition}"
        logits = forced_logits(db, model, prompt, label, tmp_path, f"own-{condition[-1]}")[condition]
        lp = log_softmax(logits)
        expected = {"logit": logits[0, ids["a"]], "logprob": lp[0, own], "prob": math.exp(lp[3, other]),
                    "rank": 1 + int((logits[5] > logits[5, ids["a"]]).sum()), "diff": logits[0, ids["a"]] - logits[0, ids["b"]],
                    "own_diff": logits[2, own] - logits[2, other], "late_diff": logits[7, ids["a"]] - logits[7, ids["b"]]}
        for name, value in expected.items():
            assert abs(values(db, name)[label] - value) < 1e-5, (name, label)


def test_recovery(done):
    _, db, _ = done
    diff, late = values(db, "diff"), values(db, "late_diff")
    for label, value in values(db, "recovery").items():
        clean, corrupt = diff[("b" if label[0] == "a" else "a") + "/baseline"], diff[label[0] + "/baseline"]
        assert abs(value - (diff[label] - corrupt) / (clean - corrupt)) < 1e-9
    assert len(values(db, "recovery")) == len(diff) == 20
    for label, value in values(db, "of_zero").items():
        clean, corrupt = late[label[0] + "/zero"], late[label[0] + "/baseline"]
        assert abs(value - (late[label] - corrupt) / (clean - corrupt)) < 1e-9
    assert sql(db, "SELECT count(*) AS n FROM v_metric WHERE metric='nothing' AND flag='undefined'")[0]["n"] == 20


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(corner + (x != y), row[j - 1] + 1, row[j] + 1)
    return row[-1]


def test_edit_distance(done):
    _, db, _ = done
    texts = {r["label"]: r["text"] for r in sql(db, "SELECT label, text FROM v_result")}
    chars, tokens = values(db, "chars"), values(db, "tokens")
    for label, text in texts.items():
        base = label[0] + "/baseline"
        assert chars[label] == levenshtein(text, texts[base])
        assert tokens[label] == levenshtein(new_tokens(db, label), new_tokens(db, base))
    assert max(chars.values()) > 3 and max(tokens.values()) > 3


def delta(norm, a, b):
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    if norm == "l2":
        return np.sqrt(((a - b) ** 2).sum())
    if norm == "max":
        return np.abs(a - b).max()
    length = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
    return (a * b).sum() / length if length > 0 else None


def assert_delta(db, metric, norm, label, a, b):
    """Caches by name (G, T, E), against the metric's value and parts."""
    both = np.stack([np.stack([x[f"{t}.{i}"] for i in range(3) for t in "kv"]) for x in (a, b)])  # 2, layer x tensor, G, T, E
    assert abs(values(db, metric)[label] - delta(norm, *both)) < 1e-5
    parts = sql(db, f"SELECT * FROM v_metric_part WHERE metric='{metric}' AND label='{label}'")
    for p in parts:
        x = both.reshape(2, 3, 2, *both.shape[2:])
        x = x[:, [p["layer"]]] if p["layer"] is not None else x
        x = x[:, :, ["kv".index(p["tensor"])]] if p["tensor"] is not None else x
        x = x[:, :, :, [p["head"]]] if p["head"] is not None else x
        x = x[:, :, :, :, [p["pos"]]] if p["pos"] is not None else x
        expected = delta(norm, *x)
        assert (p["value"] is None) == (expected is None)
        assert expected is None or abs(p["value"] - expected) < 1e-5
    return len(parts)


@pytest.mark.parametrize("kv", ["f32", "bf16"])
def test_kv_delta_is_numpys(kv, model, tmp_path):
    db = tmp_path / "r.db"
    metrics = "\n".join(line for line in METRICS.splitlines() if "kv_delta" in line or "metrics:" in line)
    run(write_spec(tmp_path / "m.yaml", model, metrics=metrics, kv=kv), "--db", db)
    for prompt in "ab":
        before, _ = export(db, f"{prompt}/baseline", "prefill", tmp_path)
        n_tok = before["k.0"].shape[1]
        for label, moment in [("zero", "edited"), ("patch/layer=1", "prefill")]:
            after, _ = export(db, f"{prompt}/{label}", moment, tmp_path)
            assert assert_delta(db, "l2", "l2", f"{prompt}/{label}", after, before) == 3 * 2 * 2 * n_tok
            assert assert_delta(db, "cosine", "cosine", f"{prompt}/{label}", after, before) == 3 * 2
        assert assert_delta(db, "max", "max", f"{prompt}/patch/layer=1", after, before) == 2 * n_tok
        ends = [export(db, f"{prompt}/{c}", "end", tmp_path)[0] for c in ("zero", "baseline")]
        assert assert_delta(db, "at_end", "l2", f"{prompt}/zero", *ends) == 0
    both = [export(db, f"{p}/baseline", "prefill", tmp_path)[0] for p in "ab"]
    assert assert_delta(db, "two", "cosine", "a/baseline", *both) == 2
    assert list(values(db, "two")) == ["a/baseline"]
    assert set(values(db, "max")) == {f"{p}/patch/layer={i}" for p in "ab" for i in range(3)}


def test_state_size(done):
    _, db, _ = done
    tokens = len(token_ids(db, "a")) + STEPS - 1
    kv, s, z = tokens * 2 * 16 * 4, 2 * 16 * 16 * 4, 2 * 16 * 4
    assert set(values(db, "state_size").values()) == {3 * 2 * kv}
    parts = sql(db, "SELECT tensor, layer, value FROM v_metric_part WHERE metric='state_size' AND label='a/zero'")
    assert {(p["tensor"], p["layer"]): p["value"] for p in parts} == {
        (t, i): v for t, v in (("k", kv), ("v", kv), ("s", s), ("z", z)) for i in range(3)}


@pytest.mark.parametrize("after", ["rerun_last", "reuse_logits"])
def test_a_metric_added_later_has_the_bits_of_one_that_was_there(after, model, tmp_path):
    first, later = tmp_path / "first.db", tmp_path / "later.db"
    spec = write_spec(tmp_path / "m.yaml", model, after=after)
    run(spec, "--db", first, "--batch", 3)
    run(write_spec(tmp_path / "none.yaml", model, metrics="", after=after), "--db", later, "--threads", 1)
    assert "0 to run" in run(spec, "--db", later).stderr
    everything = "SELECT label, metric, NULL AS a, NULL, NULL, NULL, NULL, value, flag FROM v_metric UNION ALL " \
                 "SELECT label, metric, tensor, layer, head, pos, step, value, flag FROM v_metric_part ORDER BY 1,2,3,4,5,6,7"
    rows = [sqlite3.connect(db).execute(everything).fetchall() for db in (first, later)]
    assert rows[0] == rows[1] and len(rows[0]) > 1000
    said = "SELECT label, step, token_id, logit, logprob, rank FROM answer_token JOIN v_latest USING (attempt_id) ORDER BY 1,2,3"
    rows = [sqlite3.connect(db).execute(said).fetchall() for db in (first, later)]
    assert rows[0] == rows[1] and len(rows[0]) > 100
    if after == "reuse_logits":  # the edit comes behind the logits
        assert values(first, "diff")["a/zero"] == values(first, "diff")["a/baseline"]
    else:
        assert values(first, "diff")["a/zero"] != values(first, "diff")["a/baseline"]
    assert_clean(later)


def test_values_are_kept_and_what_is_missing_is_made(done, tmp_path):
    spec, db, _ = done
    copy = tmp_path / "copy.db"
    sqlite3.connect(db).execute("VACUUM INTO ?", (str(copy),))
    before = {m: values(db, m) for m in ("kl", "l2", "logprob_diff")}
    con = sqlite3.connect(copy)
    # As after a stop: some values of long metrics are not there yet, with their parts. The others are marked.
    ids = {name: i for i, name in con.execute("SELECT id, name FROM metric_def")}
    for name in before:
        con.execute("DELETE FROM metric WHERE metric_id=? AND spec_job_id%2", (ids[name],))
        con.execute("DELETE FROM metric_part WHERE metric_id=? AND spec_job_id%2", (ids[name],))
        con.execute("UPDATE metric SET value=value+1000 WHERE metric_id=?", (ids[name],))
    con.commit()
    con.close()
    run(spec, "--db", copy)
    n = 0
    for name, old in before.items():
        for label, value in values(copy, name).items():
            n += value == old[label] + 1000
            assert value in (old[label], old[label] + 1000)
        assert len(values(copy, name)) == len(old)
    assert n > 15
    assert steps(copy, "kl") == steps(db, "kl")


def test_the_table_tells_numbers(done):
    _, _, shown = done
    text = shown.stdout
    for name in ("kl", "logprob_diff", "rank", "diff", "recovery", "chars", "l2"):
        assert any(line.split()[:1] == [name] for line in text.splitlines()), name
    assert "state_size" in text and "for each of" in text


# ---- controls ----

def judged(db):
    return {r["label"]: (r["verdict"], r["detail"]) for r in sql(db, "SELECT label, verdict, detail FROM v_control")}


def tamper(db, statement, *args):
    con = sqlite3.connect(db)
    n = con.execute(statement, args).rowcount
    con.commit()
    con.close()
    assert n >= 1


ATTEMPT = "(SELECT l.attempt_id FROM v_latest l WHERE l.label=?)"


@pytest.mark.parametrize("what", ["token", "logprob", "margin", "length", "cache", "missing"])
def test_a_control_that_fails_marks_the_experiment(what, model, tmp_path):
    db = tmp_path / "r.db"
    spec = write_spec(tmp_path / "m.yaml", model, metrics="")
    spec.write_text(spec.read_text().replace("{ of: [baseline], moments: [prefill, end] }", "{ moments: [prefill, end] }"))
    assert "controls: 4 of 4 bit-equal" in run(spec, "--db", db).stderr
    assert set(judged(db).values()) == {("pass", "bit-equal to a/baseline"), ("pass", "bit-equal to b/baseline")}
    if what == "token":
        tamper(db, f"UPDATE step SET token_id=token_id+1 WHERE step=2 AND attempt_id={ATTEMPT}", "a/noop")
    elif what in ("logprob", "margin"):
        tamper(db, f"UPDATE step SET {what}={what}*(1+1e-7) WHERE step=3 AND attempt_id={ATTEMPT}", "a/noop")
    elif what == "length":
        tamper(db, f"DELETE FROM step WHERE step={STEPS - 1} AND attempt_id={ATTEMPT}", "a/noop")
    elif what == "cache":
        other = "(SELECT blob_id FROM kv_chunk WHERE layer=2 AND tensor='v' LIMIT 1)"
        tamper(db, f"UPDATE kv_chunk SET blob_id={other} WHERE layer=1 AND tensor='k' AND tok_start=0 AND capture_id="
                   f"(SELECT id FROM kv_capture WHERE moment='end' AND attempt_id={ATTEMPT})", "a/noop")
    else:
        tamper(db, f"UPDATE attempt SET status='failed', error_code=1 WHERE id={ATTEMPT}", "a/noop")
        assert "5 of 4" not in run(spec, "--db", db).stderr  # it is made again
        assert judged(db)["a/noop"][0] == "pass"
        return
    again = run(spec, "--db", db, check=1)  # all is stored, nothing runs
    assert "0 to run" in again.stderr and "3 of 4 bit-equal" in again.stderr
    assert "1 control failed: this experiment is not to be trusted" in again.stderr and "a/noop" in again.stderr
    assert judged(db)["a/noop"][0] == "fail"
    expected = {"token": "step 2: token", "logprob": "step 3: log-probability", "margin": "step 3: margin",
                "length": f"step {STEPS - 1}: one text has ended", "cache": "at moment 'end' differs: k of layer 1 from token 0"}
    assert expected[what] in judged(db)["a/noop"][1]
    assert [v for v, _ in judged(db).values()].count("pass") == 3
    assert sql(db, "SELECT exit_code, status FROM run ORDER BY id DESC LIMIT 1") == [{"exit_code": 1, "status": "failed"}]
    run(spec, "--db", db, "-q", check=1)
    assert "4 of 4 bit-equal" in run(spec, "--db", db, "--fresh").stderr  # made anew, the experiment is trusted again


def test_a_stored_answer_that_cannot_be_made_again_is_an_error(model, tmp_path):
    db = tmp_path / "r.db"
    run(write_spec(tmp_path / "m.yaml", model, metrics=""), "--db", db)
    tamper(db, f"UPDATE step SET margin=margin*(1+1e-7) WHERE step=1 AND attempt_id={ATTEMPT}", "a/zero")
    shown = run(write_spec(tmp_path / "m.yaml", model), "--db", db, check=1)
    assert "'a/zero', made again, gives token" in shown.stderr


def test_answers_of_other_numerics_are_left_alone(model, tmp_path):
    db, metrics = tmp_path / "r.db", "metrics: [{ name: kl, against: baseline }, { name: first, logit: ' the' }]"
    run(write_spec(tmp_path / "m.yaml", model, metrics=""), "--db", db)
    con = sqlite3.connect(db)  # as if all answers had come again from another machine, and a control had failed there
    n = con.execute("SELECT max(id) FROM attempt").fetchone()[0]
    con.execute("INSERT INTO run(uuid,spec_id,environment_id,argv_json,cwd,pid,started_ms,status) SELECT 'x',spec_id,environment_id,"
                "argv_json,cwd,pid,started_ms,status FROM run LIMIT 1")
    con.execute("INSERT INTO attempt(id,job_id,run_id,numerics,status,started_ms,ended_ms) SELECT id+?,job_id,"
                "(SELECT max(id) FROM run),'other',status,1,1 FROM attempt", (n,))
    con.execute("INSERT INTO generation SELECT attempt_id+?,text,text_lossy,n_prompt,n_gen,stop,tokens_sha256,1,1 FROM generation", (n,))
    con.execute("INSERT INTO step SELECT attempt_id+?,step,token_id+attempt_id%2,logprob,margin FROM step", (n,))
    con.commit()
    con.close()
    shown = run(write_spec(tmp_path / "m.yaml", model, metrics=metrics), "--db", db).stderr
    assert "the newest answers of 20 jobs are of other numerics" in shown and "4 of 4 bit-equal" in shown
    assert sql(db, "SELECT count(*) AS n FROM v_metric WHERE value<>0")[0]["n"] == 0
    shown = run(tmp_path / "m.yaml", "--db", db, "--fresh").stderr
    assert "numerics than" not in shown
    assert sql(db, "SELECT count(*) AS n FROM v_metric WHERE value<>0")[0]["n"] > 20


# ---- schemas ----

def test_a_database_of_schema_1_is_brought_along(model, tmp_path):
    old, new, spec = tmp_path / "old.db", tmp_path / "new.db", write_spec(tmp_path / "m.yaml", model)
    plain = write_spec(tmp_path / "plain.yaml", model, metrics="metrics: [{ name: says, mentions: { any: [a] } }]")
    run(plain, "--db", new)
    # What schema 1 would hold of the same run.
    con = sqlite3.connect(old)
    con.executescript((ROOT / "tests/golden/schema-1.sql").read_text())
    con.execute("ATTACH ? AS new", (str(new),))
    for (table,) in con.execute("SELECT name FROM main.sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite%'").fetchall():
        columns = ",".join(r[1] for r in con.execute(f"PRAGMA main.table_info({table})"))
        con.execute(f"INSERT INTO main.{table}({columns}) SELECT {columns} FROM new.{table}")
    con.commit()
    con.close()
    # Readers work on it as it is, and say what to do where they cannot.
    answers = sql(old, "SELECT label, text FROM v_result ORDER BY label")
    assert len(answers) == 20
    run("show", "a/zero", "--db", old)
    assert "schema 1: kvrun SPEC --db FILE brings it to 2" in run("sql", "--db", old, "SELECT * FROM v_control", check=2).stderr
    assert "run        0" in run("plan", plain, "--db", old).stdout
    shown = run(spec, "--db", old).stderr
    assert f"{old}: brought from schema 1 to 2; as it was: {old}.v1.bak" in shown and "0 to run, 20 stored" in shown
    run(spec, "--db", new)
    def bare(text):
        return " ".join(re.sub("--.*", "", text or "").split())

    schemas = [[(*rest, bare(text)) for *rest, text in sqlite3.connect(db).execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2")] for db in (old, new)]
    assert schemas[0] == schemas[1]
    for metric in ("kl", "diff", "l2"):
        assert values(old, metric) == values(new, metric)
    assert sql(old, "SELECT label, text FROM v_result WHERE experiment='metrics' ORDER BY label") == answers
    con = sqlite3.connect(f"{old}.v1.bak")
    assert con.execute("PRAGMA user_version").fetchone() == (1,)
    assert con.execute("SELECT count(*) FROM generation").fetchone() == (14,)  # six labels share the answers of others
    assert_clean(old)


def test_the_first_difference_is_found_fast(tmp_path):
    """v_divergence over 20,000 answers: right, and in a number of steps of SQLite's machine that grows with the answers."""
    db, n, length, rng = tmp_path / "r.db", 20000, 20, random.Random(5)
    con = sqlite3.connect(db)
    con.executescript((ROOT / "results-schema.sql").read_text())
    con.executescript("""
        INSERT INTO experiment VALUES(1,'x',NULL,0); INSERT INTO spec VALUES(1,1,zeroblob(32),'{}','','',0);
        INSERT INTO model VALUES(1,zeroblob(32),'','','','',0,'',1,1,1,1,1,1,1,1); INSERT INTO tokenizer VALUES(1,zeroblob(32),'',0,0);
        INSERT INTO environment VALUES(1,zeroblob(32),'','','',0,NULL,'',1,'','',0,'','','','n');
        INSERT INTO run VALUES(1,'u',1,1,'','',1,0,0,'done',0); INSERT INTO prompt VALUES(1,zeroblob(32),1,'',1);
        INSERT INTO spec_prompt(id,spec_id,name,prompt_id) VALUES(1,1,'a',1);""")
    base = [rng.randrange(100) for _ in range(length)]
    expected = {}
    for i in range(1, n + 1):
        kind, tokens = i % 4, list(base)
        if i > 1 and kind == 1:
            tokens[rng.randrange(length)] += 1
        elif kind == 2:
            tokens[-1] += 1
        elif kind == 3:
            tokens = tokens[:rng.randrange(1, length)] if i % 8 == 3 else tokens + [7]
        different = [k for k in range(max(len(tokens), length)) if tokens[k:k + 1] != base[k:k + 1]]
        if different:
            expected[f"l{i}"] = different[0]
        con.execute("INSERT INTO job VALUES(?,?,1,1,'','')", (i, i.to_bytes(32, "big")))
        con.execute("INSERT INTO spec_job VALUES(?,1,?,?,1,'c',?,1)", (i, i, i, f"l{i}"))
        con.execute("INSERT INTO attempt VALUES(?,?,1,'n','done',0,0,NULL,NULL)", (i, i))
        con.execute("INSERT INTO generation VALUES(?,'',0,1,?,'length',?,0,0)",
                    (i, len(tokens), hash(tuple(tokens)).to_bytes(32, "big", signed=True)))
        con.executemany("INSERT INTO step VALUES(?,?,?,0,0)", [(i, k, t) for k, t in enumerate(tokens)])
    con.commit()
    thousands = [0]
    con.set_progress_handler(lambda: thousands.__setitem__(0, thousands[0] + 1), 1000)
    assert dict(con.execute("SELECT label, first_diff_step FROM v_divergence")) == expected
    assert thousands[0] < 16 * n * length / 1000  # that of schema 1 took 54


GOLDEN_SPEC = """\
kvrun: 1
experiment: golden
model: {{ path: {folder} }}
prompts:
  - name: [here, donor]
    tokens: [{prompt}, {donor}]
conditions:
  - name: baseline
{conditions}
decode: {{ max_tokens: {n}, stop: none, after_edit: rerun_last }}
metrics:
  - {{ name: kl, against: baseline, per: step }}
  - {{ name: logprob_diff, against: baseline, per: step }}
"""


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_forced_passes_of_edited_caches_are_those_of_transformers(name, tmp_path):
    golden = json.loads((ROOT / "tests/golden/metrics.json").read_text())[name]
    folder = ROOT / "tests/golden/tiny" / name
    e = json.loads((folder / "expected.json").read_text())
    conditions = ""
    for c in golden:
        edit = dict(e["conditions"][c]["edit"])
        op = {"op": edit["do"], "at": {"tokens": e["positions"]}, "when": edit.get("when", "finished_cache")}
        if edit["do"] != "mask":
            op["tensor"] = edit["of"]
        if edit["do"] == "transplant":
            op["from"] = {"prompt": "donor"}
        op.update({k: edit[k] for k in ("layers", "heads") if k in edit})
        conditions += f"  - name: {c}\n    apply: [{json.dumps(op)}]\n"
    spec, db = tmp_path / "g.yaml", tmp_path / "g.db"
    spec.write_text(GOLDEN_SPEC.format(folder=folder, prompt=e["prompt"], donor=e["donor"], conditions=conditions,
                                       n=len(e["conditions"]["none"]["tokens"])))
    run(spec, "--db", db)
    assert new_tokens(db, "here/baseline") == e["conditions"]["none"]["tokens"]
    for metric in ("kl", "logprob_diff"):
        got = steps(db, metric)
        for c, expected in golden.items():
            assert np.abs(np.array(got[f"here/{c}"]) - expected[metric]).max() < 2e-5, (metric, c)
            assert max(map(abs, expected[metric])) > 1e-4


EVERY_OPERATION = """\
kvrun: 1
experiment: every_operation
model: { path: MODEL }
prompts:
  - name: [a, b]
    slots: { city: [SF, NY] }
    text: "TEXT"
conditions:
  - name: baseline
  - name: noise
    apply: [{ op: noise, sigma: 0.3, seed: 5, tensor: kv, layers: all, at: { slot: city }, when: finished_cache }]
  - name: holes
    apply: [{ op: evict, position_policy: keep_holes, at: { tokens: ["3..9"] }, when: finished_cache }]
  - name: compact
    apply: [{ op: evict, position_policy: compact_rerotate, at: { tokens: ["3..9"] }, when: finished_cache }]
  - name: compact_prefill
    apply: [{ op: evict, position_policy: compact_rerotate, at: { slot: city }, when: prefill }]
  - name: mask_prefill
    apply: [{ op: mask, at: { slot: city }, when: prefill }]
  - name: quantise
    apply: [{ op: quantise, bits: 4, tensor: kv, layers: all, at: { tokens: ["1..-1"] }, when: prefill }]
  - name: knockout
    apply: [{ op: knockout, layers: all, at: { slot: city }, queries: { last: true }, when: prefill }]
  - name: each
    apply: [{ op: scale, by: 0.9, tensor: v, layers: [1], at: { slot: city }, when: every_step }]
  - name: some
    apply: [{ op: zero, tensor: kv, layers: all, at: { tokens: [5] }, when: { steps: 2..4 } }]
  - name: gen
    apply: [{ op: zero, tensor: v, layers: all, at: { gen: "1..3" }, when: every_step }]
  - name: gen_resid
    apply: [{ op: scale, by: 2, tensor: resid, layers: [0], at: { gen: "0..2" }, when: every_step }]
  - name: key_norm
    apply: [{ op: evict, position_policy: keep_holes, at: { score: key_norm, lowest: 4 }, when: finished_cache }]
  - name: attention
    apply: [{ op: evict, position_policy: keep_holes, at: { score: attention, lowest: "30 %" }, when: finished_cache }]
  - name: of_edited
    apply: [{ op: transplant, tensor: kv, layers: all, at: { slot: city }, from: { prompt: other, condition: noise }, when: finished_cache }]
decode: { max_tokens: 8, stop: none, after_edit: rerun_last }
metrics: METRICS
"""


def test_whatever_was_edited_is_made_again_bit_for_bit(model, tmp_path):
    """Reading an answer at the last step feeds every job its own tokens in one block; each step's choice and margin is checked
    against what the run stored. KL of a job against itself is 0 only where both passes have the same bits."""
    text, late = EVERY_OPERATION.replace("MODEL", str(model)).replace("TEXT", TEXT), tmp_path / "late.yaml"
    plain, db = tmp_path / "plain.yaml", tmp_path / "r.db"
    plain.write_text(text.replace("metrics: METRICS\n", ""))
    late.write_text(text.replace("METRICS", "[{ name: late, logit: ' the', step: 7 }, { name: kl, against: baseline, per: step }]"))
    if "is not supported yet" in run("plan", plain, check=None).stderr:
        pytest.skip("not all operations are there yet")
    run(plain, "--db", db)
    assert "0 to run" in run(late, "--db", db).stderr
    texts = {r["label"]: r["text"] for r in sql(db, "SELECT label, text FROM v_result")}
    assert len(texts) == 30 and set(values(db, "late")) == set(values(db, "kl")) == set(texts)
    for label, kl in steps(db, "kl").items():
        same = label.endswith("baseline")
        assert len(kl) == 8 and (max(kl) == 0) == same, label
    # Edits that begin with the third new token leave the steps before as they are.
    assert steps(db, "kl")["a/some"][:3] == [0.0] * 3 and max(steps(db, "kl")["a/some"][3:]) > 0
