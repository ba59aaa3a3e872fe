"""Every operation through a spec, on tiny models: what must change nothing changes no bit, what must change something does, and
no answer depends on its company: one batch of different operations, positions and lengths equals each job alone."""
import random

import pytest
from conftest import assert_clean, fingerprint, run, sql

TEXT = ("I am flying to {{city}} next week. Think about it, but do not answer yet, since I will ask you later about other places: "
        "London, Paris, Rome and San Francisco. Okay. Which city am I flying to? You are flying to")
SITES = "[k, v, kv, k_pre, resid, embed, attn_out, mlp_out, head_out]"
HEAD = """\
kvrun: 1
experiment: {name}
model: {{ path: {model} }}
prompts:
  - name: [a, b]
    slots: {{ city: [SF, NY] }}
    text: "{text}"
  - {{ name: short, text: "I am flying to Rome. You are flying to", slots: {{}} }}
axes: {{ t: [k, v, kv], site: """ + SITES + """, layer: {{ layers: all }} }}
conditions:
  - name: baseline
"""
TAIL = """\
decode: {{ max_tokens: {tokens}, stop: none, after_edit: {after} }}
capture:
  kv: [{{ moments: [end] }}]
allow: [W107, W109, W116]
"""
# Each with what it says beside op, tensor, at and when.
FINISHED = {"zero": "", "scale": "by: -2", "mean": "over: { tokens: [\"1..4\"] }", "noise": "sigma: 2", "quantise": "bits: 2",
            "swap": "with: { tokens: [9] }, rope: rerotate", "transplant": "from: { prompt: other, at: { tokens: [5] } }, rope: keep"}
FLIGHT = {k: v for k, v in FINISHED.items() if k not in ("swap",)}
WHOLE = {"mask": "", "evict": "position_policy: keep_holes"}


def operations():
    """All operations at all moments on all tensors, one condition each, as text."""
    out = []
    for op, keys in FINISHED.items():
        out.append((f"fin_{op}", "t", f"op: {op}, tensor: $t, at: {{ tokens: [4] }}, when: finished_cache", keys))
        out.append((f"step_{op}", "t", f"op: {op}, tensor: $t, at: {{ tokens: [4] }}, when: {{ steps: \"1..3\" }}", keys))
    for op, keys in FLIGHT.items():
        keys = keys.replace(", rope: keep", "") if op == "transplant" else keys
        at = "tokens: [5]" if op == "transplant" else "tokens: [4]"
        out.append((f"fly_{op}", "site", f"op: {op}, tensor: $site, at: {{ {at} }}, when: prefill", keys))
    for op, keys in WHOLE.items():
        for when in ("finished_cache", "prefill", "every_step"):
            out.append((f"{when}_{op}", None, f"op: {op}, at: {{ tokens: [4] }}, when: {when}", keys))
    for when in ("finished_cache", "prefill"):
        out.append((f"{when}_close", None, f"op: evict, at: {{ tokens: [4] }}, when: {when}", "position_policy: compact_rerotate"))
    for when in ("prefill", "every_step"):
        out.append((f"{when}_knockout", None, f"op: knockout, heads: [0], at: {{ tokens: [4] }}, when: {when}", ""))
    out.append(("knockout_queries", None, "op: knockout, at: { tokens: [4] }, when: prefill", "queries: { tokens: [\"6..-1\"] }"))
    out.append(("gen_scale", "site", "op: scale, tensor: $site, at: { gen: \"0..3\" }, when: every_step", "by: -1"))
    out.append(("gen_mask", None, "op: mask, at: { gen: \"0..1\" }, when: every_step", ""))
    out.append(("heavy", None, "op: evict, at: { score: attention, lowest: \"50 %\" }, when: finished_cache", "position_policy: keep_holes"))
    out.append(("norms", None, "op: mask, at: { score: key_norm, highest: 3 }, when: finished_cache", ""))
    return out


def conditions(list_of):
    text = ""
    for name, over, op, keys in list_of:
        text += f"  - name: {name}\n" + (f"    over: [{over}]\n" if over else "")
        text += f"    apply: [{{ {op}{', ' + keys if keys else ''} }}]\n"
    return text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import tiny_gguf
    path = tmp_path_factory.mktemp("models") / "tiny-f32.gguf"
    tiny_gguf.write_model(str(path), seed=1, type="f32", spread=0.2)
    return path


@pytest.fixture
def write(model, tmp_path):
    def one(body, name="ops", tokens=6, after="rerun_last", text=TEXT, short=True, controls=""):
        path = tmp_path / f"{name}.yaml"
        head = HEAD.format(name=name, model=model, text=text)
        if not short:
            head = "\n".join(line for line in head.split("\n") if "short" not in line)
        path.write_text(head + body + controls + TAIL.format(tokens=tokens, after=after))
        return path
    return one


def by_label(db):
    """Tokens with their exact numbers, hashes of caches, and what the logits behind the prompt say of answers, per label."""
    tokens, _, caches = fingerprint(db)
    out = {}
    for label, *rest in tokens:
        out.setdefault(label, [[], [], []])[0].append(rest)
    for label, *rest in caches:
        out[label][1].append(rest)
    for a in sql(db, "SELECT l.label, a.token_id, a.logit, a.rank FROM answer_token a JOIN v_latest l USING (attempt_id) ORDER BY 1, 2"):
        out[a.pop("label")][2].append(a)
    return out


def test_every_operation_changes_something_and_its_controls_nothing(write, tmp_path):
    db = tmp_path / "r.db"
    body = conditions([x for x in operations() if "other" not in x[3]])
    run(write(body, short=False, controls="controls: [noop, self_transplant, non_needle, absent]\ncontrols_for: all\n"), "--db", db)
    rows = by_label(db)
    assert len(rows) > 200
    for label, row in rows.items():
        plain = rows[label[:2] + "baseline"]
        if label.endswith(("~noop", "~self_transplant")):
            assert row == plain, label
        elif "~" not in label and "baseline" not in label:
            assert row != plain, label
    verdicts = sql(db, "SELECT verdict, count(*) AS n FROM v_control GROUP BY verdict ORDER BY verdict")
    assert [v["verdict"] for v in verdicts] == ["pass", "shown"]
    assert_clean(db)


def test_one_batch_of_everything_equals_each_job_alone(write, tmp_path):
    body = conditions([x for x in operations() if "other" not in x[3] and "9" not in x[3]])
    spec = write(body)
    db = tmp_path / "all.db"
    run(spec, "--db", db)
    rows = by_label(db)
    for args in (["--batch", 1], ["--shuffle", 3, "--batch", 7], ["--threads", 1, "--isa", "scalar"]):
        other = tmp_path / "other.db"
        other.unlink(missing_ok=True)
        run(spec, "--db", other, *args)
        assert by_label(other) == rows, args
    for label in random.Random(1).sample(sorted(rows), 12):
        alone = tmp_path / "alone.db"
        alone.unlink(missing_ok=True)
        run(spec, "--db", alone, "--only", label, "--batch", 1)
        assert by_label(alone)[label] == rows[label], label


def test_a_stopped_run_goes_on_to_the_same_bits(write, tmp_path):
    body = conditions([x for x in operations() if "other" not in x[3] and "9" not in x[3]])
    spec = write(body)
    whole, parts = tmp_path / "whole.db", tmp_path / "parts.db"
    run(spec, "--db", whole)
    for label in ("a/fly_*", "short/fin_*", "b/*"):
        run(spec, "--db", parts, "--only", label)
    run(spec, "--db", parts)
    assert fingerprint(parts) == fingerprint(whole)


RESTORE = """\
  - name: corrupt
    apply: [{ op: noise, sigma: 0.5, tensor: embed, at: { slot: city }, when: prefill }]
  - name: restore
    over: [layer, site]
    apply:
      - { op: noise, sigma: 0.5, tensor: embed, at: { slot: city }, when: prefill }
      - { op: transplant, tensor: $site, layers: LAYERS, at: { tokens: AT }, from: { prompt: same, at: { tokens: AT } }, when: prefill }
  - name: twice
    over: [layer]
    apply:
      - { op: scale, by: 0.5, tensor: resid, layers: [1], at: { slot: city }, when: prefill }
      - { op: scale, by: 3, tensor: resid, layers: [$layer], at: { slot: city }, when: prefill }
  - name: edges
    over: [layer]
    apply:
      - { op: mask, layers: [1], at: { slot: city }, when: prefill }
      - { op: knockout, layers: [$layer], at: { tokens: [2] }, when: prefill }
  - name: patch
    over: [layer, site]
    apply: [{ op: transplant, tensor: $site, layers: LAYERS, at: { slot: city }, from: { prompt: other }, when: prefill }]
""".replace("tensor: $site, layers: LAYERS", "tensor: $site, layers: [$layer]")


def test_jobs_that_share_a_pass_equal_jobs_that_do_not(write, tmp_path):
    body = RESTORE.replace(", embed, ", ", ").replace("AT", "[7]")
    spec = write(body.replace("site]", "site]"), short=False, tokens=3)
    spec.write_text(spec.read_text().replace(SITES, SITES.replace("embed, ", ""))
                    .replace("allow:", "metrics: [{ name: rome, logit: \" Rome\" }]\nallow:"))
    db = tmp_path / "all.db"
    run(spec, "--db", db)
    rows = by_label(db)
    labels = sorted(x for x in rows if "~" not in x)
    assert all(row[2] and row[2][0]["logit"] for row in rows.values())
    for label in random.Random(2).sample(labels, 40):
        alone = tmp_path / "alone.db"
        alone.unlink(missing_ok=True)
        run(spec, "--db", alone, "--only", label, "--batch", 1)
        assert by_label(alone)[label] == rows[label], label
    assert rows["a/corrupt"] != rows["a/baseline"]
    assert any(rows[x] != rows["a/corrupt"] for x in labels if x.startswith("a/restore"))


def test_identities(write, tmp_path):
    """What needs no reference. A patch of all that follows from a corruption restores the clean run; a hole is a mask; a knockout of
    all edges to a key is a mask of it; a sum with nothing, and values of one's own, change nothing."""
    spec = write("""\
  - name: mask
    apply: [{ op: mask, at: { slot: city }, when: finished_cache }]
  - name: hole
    apply: [{ op: evict, position_policy: keep_holes, at: { slot: city }, when: finished_cache }]
  - name: late_mask
    apply: [{ op: mask, at: { slot: city }, when: every_step }]
  - name: late_knockout
    apply: [{ op: knockout, at: { slot: city }, when: every_step }]
  - name: fly_mask
    apply: [{ op: mask, at: { slot: city }, when: prefill }]
  - name: fly_knockout
    apply: [{ op: knockout, at: { slot: city }, when: prefill }]
  - name: nothing
    over: [t]
    apply: [{ op: noise, sigma: 0, tensor: $t, at: { slot: city }, when: finished_cache }]
  - name: own_mean
    over: [t]
    apply: [{ op: mean, tensor: $t, at: { tokens: [6] }, when: finished_cache }]
  - name: swap_twice
    apply:
      - { op: swap, at: { tokens: [4] }, with: { tokens: [9] }, rope: keep, when: finished_cache }
      - { op: swap, at: { tokens: [4] }, with: { tokens: [9] }, rope: keep, when: finished_cache }
  - name: other_cache
    apply: [{ op: transplant, at: { tokens: ["0..-2"] }, from: { prompt: other }, when: finished_cache }]
  - name: corrupt
    apply: [{ op: noise, sigma: 1, tensor: embed, at: { slot: city }, when: prefill }]
  - name: healed
    apply:
      - { op: noise, sigma: 1, tensor: embed, at: { slot: city }, when: prefill }
      - { op: transplant, tensor: resid, layers: [0], at: { tokens: ["0..-1"] }, from: { prompt: same }, when: prefill }
  - name: sick
    apply: [{ op: transplant, tensor: resid, layers: [0], at: { tokens: ["0..-1"] }, from: { prompt: same, condition: corrupt }, when: prefill }]
  - name: sick_cache
    apply: [{ op: transplant, at: { tokens: ["0..-2"] }, from: { prompt: same, condition: corrupt }, when: finished_cache }]
""", short=False)
    db = tmp_path / "r.db"
    run(spec, "--db", db)
    rows = {label: row[0] for label, row in by_label(db).items()}
    for p in "ab":
        other = "b" if p == "a" else "a"
        for name, same in [("hole", "mask"), ("late_knockout", "late_mask"), ("fly_knockout", "fly_mask"), ("nothing/t=kv", "baseline"),
                           ("nothing/t=k", "baseline"), ("own_mean/t=kv", "baseline"), ("swap_twice", "baseline")]:
            assert rows[f"{p}/{name}"] == rows[f"{p}/{same}"], name
        assert rows[f"{p}/other_cache"] == rows[f"{other}/baseline"]
        assert rows[f"{p}/corrupt"] != rows[f"{p}/baseline"]
        assert rows[f"{p}/sick_cache"] == rows[f"{p}/corrupt"]
        assert rows[f"{p}/healed"][0] == rows[f"{p}/baseline"][0]  # the first new token: later ones also see layer 0's cache
        assert rows[f"{p}/sick"][0] == rows[f"{p}/corrupt"][0] != rows[f"{p}/baseline"][0]
        assert rows[f"{p}/mask"] != rows[f"{p}/baseline"] and rows[f"{p}/fly_mask"] != rows[f"{p}/mask"]


def test_the_last_words_are_fed_behind_the_edit(write, tmp_path):
    """feed of the last token is rerun_last; feed of more equals the same edit in a prompt cut there, fed on."""
    edits = "  - name: zero\n    apply: [{ op: zero, at: { slot: city }, when: finished_cache }]\n"
    out = {}
    for name, after in [("rerun", "rerun_last"), ("one", "{ feed: \" to\" }"), ("words", "{ feed: \" You are flying to\" }")]:
        db = tmp_path / f"{name}.db"
        run(write(edits, name=name, after=after, short=False), "--db", db)
        out[name] = by_label(db)
    assert out["one"] == out["rerun"]
    assert out["words"]["a/baseline"][0] == out["rerun"]["a/baseline"][0]
    assert out["words"]["a/zero"] != out["rerun"]["a/zero"]


def test_values_of_another_run_are_those_values(write, tmp_path):
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    spec = write("""\
  - name: zero
    apply: [{ op: zero, tensor: v, at: { slot: city }, when: prefill }]
""", name="first", short=False)
    spec.write_text(spec.read_text().replace("moments: [end]", "moments: [prefill, end]")
                    .replace("allow:", "  tensors: [{ tensors: [resid, head_out] }]\nallow:"))
    run(spec, "--db", first)
    run(write(f"""\
  - name: zero
    apply: [{{ op: zero, tensor: v, at: {{ slot: city }}, when: prefill }}]
  - name: here
    over: [t]
    apply: [{{ op: transplant, tensor: $t, at: {{ tokens: ["4..9"] }}, from: {{ prompt: a, condition: zero }}, when: finished_cache }}]
  - name: stored
    over: [t]
    apply: [{{ op: transplant, tensor: $t, at: {{ tokens: ["4..9"] }}, from: {{ label: a/zero, db: {first} }}, when: finished_cache }}]
  - name: here_resid
    apply: [{{ op: transplant, tensor: resid, layers: [1], at: {{ tokens: ["4..9"] }}, from: {{ prompt: a, condition: zero }}, when: prefill }}]
  - name: stored_resid
    apply: [{{ op: transplant, tensor: resid, layers: [1], at: {{ tokens: ["4..9"] }}, from: {{ label: a/zero, experiment: first, db: {first} }}, when: prefill }}]
  - name: moved
    apply: [{{ op: transplant, at: {{ tokens: [9] }}, from: {{ prompt: a, at: {{ tokens: [4] }}, condition: zero }}, rope: rerotate, when: finished_cache }}]
  - name: stored_moved
    apply: [{{ op: transplant, at: {{ tokens: [9] }}, from: {{ label: a/zero, db: {first}, at: {{ tokens: [4] }} }}, rope: rerotate, when: finished_cache }}]
""", name="second", short=False), "--db", second)
    rows = by_label(second)
    for p in "ab":
        for t in ("k", "v", "kv"):
            assert rows[f"{p}/stored/t={t}"] == rows[f"{p}/here/t={t}"]
        assert rows[f"{p}/stored_resid"] == rows[f"{p}/here_resid"] != rows[f"{p}/baseline"]
        assert rows[f"{p}/stored_moved"] == rows[f"{p}/moved"] != rows[f"{p}/baseline"]
    kept = sql(second, "SELECT count(*) AS n FROM intervention WHERE vector_sha256 IS NOT NULL")[0]["n"]
    donors = sql(second, "SELECT count(*) AS n FROM intervention WHERE donor_job_id IS NOT NULL")[0]["n"]
    assert kept == 2 * 5 and donors == 2 * 5


def test_alignments(write, tmp_path):
    body = ""
    for name, to, at, keys in [("left", "4..9", "4..6", "align: left"), ("left_by_hand", "4..6", "4..6", ""),
                               ("right", "4..9", "7..9", "align: right"), ("right_by_hand", "7..9", "7..9", ""),
                               ("map", "4..9", "4..9", "align: map, map: [[2, 0], [0, 2]]"),
                               ("map_by_hand", "[4, 6]", "[4, 6]", "align: map, map: [[0, 1], [1, 0]]")]:
        to, at = (x if x[0] == "[" else f'["{x}"]' for x in (to, at))
        body += (f"  - name: {name}\n    apply: [{{ op: transplant, at: {{ tokens: {to} }}, rope: keep, when: finished_cache,\n"
                 f"      from: {{ prompt: other, at: {{ tokens: {at} }} }}{', ' + keys if keys else ''} }}]\n")
    db = tmp_path / "r.db"
    run(write(body, short=False), "--db", db)
    rows = by_label(db)
    for name in ("left", "right", "map"):
        assert rows[f"a/{name}"] == rows[f"a/{name}_by_hand"]
    assert rows["a/map"] != rows["a/baseline"]
