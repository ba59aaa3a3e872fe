"""Edits in flight and recorded activations: the truths that need no reference, on a tiny model, through the whole program."""
import json
import random
import struct

import numpy as np
import pytest
from conftest import ROOT, assert_clean, fingerprint, run, sql

EVERYWHERE = ["k", "v", "kv", "k_pre", "resid", "embed", "attn_out", "mlp_out", "head_out"]
TEXT = ("I am flying to {{city}} next week. Think about it, but do not answer yet, since I will ask you later about other places: "
        "London, Paris, Rome and San Francisco. Okay. Which city am I flying to? You are flying to")

SPEC = """\
kvrun: 1
experiment: flight
model: {{ path: {model}, kv: {kv} }}
prompts:
  - name: [a, b]
    slots: {{ city: [SF, NY] }}
    text: "{text}"
axes: {{ tensor: {tensors}, site: {sites}, layer: {{ layers: all }} }}
conditions:
{conditions}
{controls}
decode: {{ max_tokens: {tokens}, stop: none{after} }}
{capture}
allow: [W109]
"""

CAPTURE = """\
capture:
  kv: [{ moments: [prefill, end] }]
  tensors:
    - { tensors: [k_pre, resid, embed, attn_out, mlp_out, head_out, attn, logits] }
"""

PLAIN = "  - name: baseline\n"
# Of every tensor, in all layers at once: what must change nothing.
NOTHING = PLAIN + """\
  - name: noops
    over: [tensor]
    apply: [{ op: noop, tensor: $tensor, at: { tokens: ["3..-1"] }, when: prefill }]
  - name: ones
    over: [tensor]
    apply: [{ op: scale, by: 1, tensor: $tensor, at: { slot: city }, when: prefill }]
  - name: nothing
    over: [site]
    apply:
      - { op: add, by: 3, tensor: $site, at: { slot: city }, when: prefill,
          vector: { from: { prompt: a, at: { tokens: [5] } }, minus: { prompt: a, at: { tokens: [5] } } } }
  - name: self
    over: [tensor]
    apply: [{ op: transplant, tensor: $tensor, at: { tokens: [2, "5..7", -1] }, from: { prompt: NAME }, when: prefill }]
"""
# Of every tensor: what must change something.
CHANGES = PLAIN + """\
  - name: zero
    over: [tensor]
    apply: [{ op: zero, tensor: $tensor, at: { slot: city }, when: prefill }]
  - name: scale
    over: [tensor]
    apply: [{ op: scale, by: -1.5, tensor: $tensor, at: { tokens: ["20..30", -1] }, when: prefill }]
  - name: swap
    over: [tensor]
    apply: [{ op: transplant, tensor: $tensor, at: { slot: city }, from: { prompt: other }, when: prefill }]
  - name: moved
    apply: [{ op: transplant, tensor: k, at: { slot: city }, from: { prompt: other, at: { tokens: [-1] } }, rope: rerotate, when: prefill }]
  - name: steer
    over: [site]
    apply:
      - { op: add, by: 2, tensor: $site, at: { tokens: [-1] }, when: prefill,
          vector: { from: { prompt: a, at: { slot: city } }, minus: { prompt: b, at: { slot: city } } } }
  - name: both
    apply:
      - { op: zero, tensor: v, at: { slot: city }, when: finished_cache }
      - { op: scale, by: 0, tensor: head_out, heads: [1], layers: [1, 2], at: { tokens: ["10..-1"] }, when: prefill }
      - { op: scale, by: 2, tensor: k, at: { tokens: [4] }, when: finished_cache }
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import tiny_gguf
    path = tmp_path_factory.mktemp("models") / "tiny-f32.gguf"
    tiny_gguf.write_model(str(path), seed=1, type="f32", spread=0.2)
    return path


@pytest.fixture
def write(model, tmp_path):
    def one(conditions, name="flight.yaml", kv="f32", tokens=8, after="", capture=CAPTURE):
        path = tmp_path / name
        after = f", after_edit: {after}" if after else ""
        path.write_text(SPEC.format(model=model, kv=kv, text=TEXT, tensors=EVERYWHERE, sites=[t for t in EVERYWHERE if t != "kv"],
                                    conditions=conditions, tokens=tokens, after=after, capture=capture,
                                    controls="controls: [noop, self_transplant]" if "apply" in conditions else ""))
        return path
    return one


def read_safetensors(path):
    """The tensors of a file by name, and its metadata."""
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    meta, tensors = head.pop("__metadata__", {}), {}
    for name, t in head.items():
        first, end = t["data_offsets"]
        tensors[name] = np.frombuffer(raw[8 + n + first:8 + n + end], dtype="<f4").reshape(t["shape"])
    return tensors, meta


def export(db, label, moment, tmp_path):
    """The same of what is stored of a label at a moment, with `positions` read."""
    out = tmp_path / "x.safetensors"
    run("export", "safetensors", "--db", db, "--label", label, "--moment", moment, "-o", out)
    tensors, meta = read_safetensors(out)
    meta["positions"] = json.loads(meta.get("positions", "{}"))
    return tensors, meta


def by_label(db):
    """Tokens with their exact numbers, and hashes of caches and activations, per label."""
    tokens, texts, caches = fingerprint(db)
    out = {}
    for label, *rest in tokens:
        out.setdefault(label, [[], []])[0].append(rest)
    for label, *rest in caches:
        out[label][1].append(rest)
    return out


def needle(db):
    return sql(db, "SELECT DISTINCT tok_start AS z FROM prompt_span")[0]["z"]


def test_what_changes_nothing_changes_no_bit(write, tmp_path):
    for prompt in "ab":
        db = tmp_path / f"{prompt}.db"
        run(write(NOTHING.replace("NAME", prompt)), "--db", db)
        rows = by_label(db)
        same = [label for label in rows if label.startswith(f"{prompt}/")]
        assert len(same) == 1 + 3 * 9 + 8 + 2
        for label in same:
            assert rows[label][0] == rows[f"{prompt}/baseline"][0], label
            assert rows[label][1] == rows[f"{prompt}/baseline"][1], label
        other = "b" if prompt == "a" else "a"
        assert rows[f"{other}/self/tensor=kv"] != rows[f"{other}/baseline"]  # there it is the other prompt's


def test_every_edit_in_flight_changes_something(write, tmp_path):
    db = tmp_path / "r.db"
    run(write(CHANGES, after="rerun_last"), "--db", db)
    rows = by_label(db)
    for label, row in rows.items():
        plain = label[:2] + "baseline"
        if label.split("/")[1] in ("baseline", "noop", "self_transplant"):
            assert row == rows[plain], label
        else:
            assert row[1] != rows[plain][1], label
    assert sum(rows[label][0] != rows[label[:2] + "baseline"][0] for label in rows) > 30
    assert_clean(db)


def test_a_zeroed_value_is_seen_by_later_positions_and_higher_layers_alone(write, tmp_path):
    spec = write(PLAIN + "  - name: zero\n    over: [layer]\n"
                 "    apply: [{ op: zero, tensor: v, layers: [$layer], at: { slot: city }, when: prefill }]\n")
    db = tmp_path / "r.db"
    run(spec, "--db", db)
    z = needle(db)
    plain, _ = export(db, "a/baseline", "end", tmp_path)
    before, _ = export(db, "a/baseline", "pass", tmp_path)
    n_prompt = sql(db, "SELECT n_prompt FROM v_result WHERE label='a/baseline'")[0]["n_prompt"]
    assert n_prompt > 64  # more than a page, more than one run of positions
    for layer in range(3):
        edited, _ = export(db, f"a/zero/layer={layer}", "end", tmp_path)
        after, _ = export(db, f"a/zero/layer={layer}", "pass", tmp_path)
        for name, was in plain.items():
            now, at = edited[name], int(name.split(".")[1])
            assert (now[:, :z] == was[:, :z]).all(), name
            if at > layer:
                assert (now[:, z + 1:n_prompt] != was[:, z + 1:n_prompt]).any(axis=(0, 2)).all(), name
                assert (now[:, z] != was[:, z]).any(), name  # the query at z sees it, too
            elif name == f"v.{layer}":
                assert (now[:, z] == 0).all()
                assert (now[:, z + 1:n_prompt] == was[:, z + 1:n_prompt]).all()
            else:
                assert (now[:, :n_prompt] == was[:, :n_prompt]).all(), name
        for name in before:
            at = int(name.split(".")[1]) if "." in name else 99 if name == "logits" else -1
            assert (after[name][:z] == before[name][:z]).all(), name
            lower = at < layer or (at == layer and name.startswith(("k_pre", "attn."))) or name == "embed"
            assert (after[name][z:] == before[name][z:]).all() == lower, name


def test_what_differs_at_one_place_is_the_other_prompt_with_that_place_transplanted(write, tmp_path):
    spec = write(PLAIN + """\
  - name: swap
    apply: [{ op: transplant, tensor: kv, at: { slot: city }, from: { prompt: other }, when: prefill }]
  - name: embed
    apply: [{ op: transplant, tensor: embed, at: { slot: city }, from: { prompt: other }, when: prefill }]
  - name: resid
    apply: [{ op: transplant, tensor: resid, layers: [1], at: { tokens: ["0..-1"] }, from: { prompt: other }, when: prefill }]
""")
    db = tmp_path / "r.db"
    run(spec, "--db", db)
    z, rows = needle(db), by_label(db)
    for prompt, other in ("ab", "ba"):
        baseline = rows[f"{other}/baseline"]
        assert baseline[0] != rows[f"{prompt}/baseline"][0]
        assert rows[f"{prompt}/swap"][0] == baseline[0]
        assert rows[f"{prompt}/embed"] == baseline  # nothing is left of the own prompt: caches and activations, too
        assert rows[f"{prompt}/resid"][0][0] == baseline[0][0]  # layers 0 and 1 still hold the own prompt for later tokens
        want, _ = export(db, f"{other}/baseline", "end", tmp_path)
        got, _ = export(db, f"{prompt}/swap", "end", tmp_path)
        for name in want:
            assert (got[name] == want[name]).all(), name
        want, _ = export(db, f"{other}/baseline", "pass", tmp_path)
        got, _ = export(db, f"{prompt}/swap", "pass", tmp_path)
        for name in want:
            assert (got[name][z + 1:] == want[name][z + 1:]).all(), name
        assert (got["embed"][z] != want["embed"][z]).any()


def test_recorded_activations_are_those_of_the_model(write, model, tmp_path):
    import tiny_gguf
    db = tmp_path / "r.db"
    run(write(PLAIN), "--db", db)
    acts, meta = export(db, "a/baseline", "pass", tmp_path)
    caches, _ = export(db, "a/baseline", "end", tmp_path)
    n, o = json.loads(meta["tokens"]), tiny_gguf.complete(dict(seed=1, type="f32", spread=0.2))
    weights = {name: np.frombuffer(raw, "<f4").reshape(dims[::-1]) for name, dims, _, raw in
               tiny_gguf.model_tensors(o, random.Random(1))}
    assert all(p == list(range(len(n))) for p in meta["positions"].values()) and set(meta["positions"]) == set(acts)
    assert len(acts) == 6 * 3 + 2
    assert (acts["embed"] == weights["token_embd.weight"][n]).all()
    below = acts["embed"].astype(np.float64)
    for layer in range(3):
        attn, out = acts[f"attn.{layer}"], acts[f"head_out.{layer}"]
        assert attn.shape == (len(n), 4, len(n)) and out.shape == (len(n), 4, 16) and acts[f"k_pre.{layer}"].shape == (len(n), 2, 16)
        assert np.allclose(attn.sum(axis=2), 1, atol=1e-5)
        assert all((attn[q, :, q + 1:] == 0).all() for q in range(len(n)))
        values = np.repeat(caches[f"v.{layer}"][:, :len(n)], 2, axis=0)  # two query heads share a kv head
        assert np.allclose(np.einsum("qht,hte->qhe", attn, values), out, atol=1e-4)
        project = weights[f"blk.{layer}.attn_output.weight"]
        assert np.allclose(out.reshape(len(n), -1) @ project.T, acts[f"attn_out.{layer}"], atol=1e-3)
        below = below + acts[f"attn_out.{layer}"] + acts[f"mlp_out.{layer}"]
        assert np.allclose(below, acts[f"resid.{layer}"], rtol=1e-4, atol=1e-3)
        keys, k_pre = caches[f"k.{layer}"][:, :len(n)].transpose(1, 0, 2), acts[f"k_pre.{layer}"]
        assert (keys[0] == k_pre[0]).all()  # position 0 is not turned
        assert np.allclose(np.linalg.norm(keys, axis=2), np.linalg.norm(k_pre, axis=2), rtol=1e-4)
    last = acts["resid.2"].astype(np.float64)
    normed = last / np.sqrt((last ** 2).mean(axis=1, keepdims=True) + 1e-5) * weights["output_norm.weight"]
    logits = normed @ weights["token_embd.weight"].T.astype(np.float64)
    assert np.allclose(logits, acts["logits"], rtol=1e-3, atol=1e-3)
    first = sql(db, "SELECT token_id, margin FROM v_token WHERE label='a/baseline' AND step=0")[0]
    top = np.sort(acts["logits"][-1])
    assert logits[-1].argmax() == acts["logits"][-1].argmax() == first["token_id"]
    assert np.isclose(first["margin"], top[-1] - top[-2], rtol=1e-5)


def test_a_vector_of_a_file_adds_what_the_difference_adds(write, tmp_path):
    difference = """\
  - name: steer
    apply:
      - { op: add, by: 2.5, tensor: resid, layers: [0, 2], at: { tokens: [30, -1] }, when: prefill,
          vector: { from: { prompt: a, at: { slot: city } }, minus: { prompt: b, at: { slot: city } } } }
"""
    db = tmp_path / "r.db"
    run(write(PLAIN + difference), "--db", db)
    z = needle(db)
    a, b = (export(db, f"{p}/baseline", "pass", tmp_path)[0] for p in "ab")
    vector = np.stack([a[f"resid.{layer}"][z] - b[f"resid.{layer}"][z] for layer in (0, 2)]).astype("<f4")
    head = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                       "city": {"dtype": "F32", "shape": [2, 64], "data_offsets": [4, 4 + vector.nbytes]}}).encode()
    (tmp_path / "steer.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0\0\0\0" + vector.tobytes())
    at = difference.index("vector:")
    file = difference[:at] + "vector: { file: steer.safetensors, tensor: city } }\n"
    spec, two = write(PLAIN + file, name="file.yaml"), tmp_path / "two.db"
    run(spec, "--db", two)
    assert by_label(two) == by_label(db)
    assert by_label(db)["a/steer"] != by_label(db)["a/baseline"]
    keys = [sql(d, "SELECT lower(hex(key)) AS k FROM job JOIN spec_job ON job_id=job.id WHERE label='a/steer'")[0]["k"] for d in (db, two)]
    assert keys[0] != keys[1]
    steered = export(db, "a/steer", "pass", tmp_path)[0]["resid.0"] - a["resid.0"]
    assert (steered[[30, -1]] != 0).all() and (np.delete(steered, [30, len(steered) - 1], axis=0) == 0).all()
    assert np.allclose(steered[30], 2.5 * vector[0], atol=1e-4)
    page = run("show", "a/steer", "--db", two).stdout
    assert "edits while the prompt was fed\n  add resid  layers 0,2  at 30," in page and "by 2.5  vector " in page
    spec.write_text(spec.read_text().replace("tensor: city", "tensor: x"))
    assert "tensor 'x' of 'steer.safetensors' is (1)" in run(spec, "--db", two, check=2).stderr


def test_scaling_a_finished_cache(write, tmp_path):
    spec = write(PLAIN + """\
  - name: one
    apply: [{ op: scale, by: 1, at: { slot: city }, when: finished_cache }]
  - name: half
    apply: [{ op: scale, by: 0.5, tensor: v, layers: [1], at: { slot: city }, when: finished_cache }]
""", after="rerun_last", capture="capture: { kv: [{ moments: [edited] }] }")
    db = tmp_path / "r.db"
    run(spec, "--db", db)
    rows, z = by_label(db), needle(db)
    assert rows["a/one"] == rows["a/baseline"] != rows["a/half"]
    was, now = (export(db, f"a/{name}", "edited", tmp_path)[0] for name in ("baseline", "half"))
    assert (now["v.1"][:, z] == was["v.1"][:, z] / 2).all()
    now["v.1"] = was["v.1"]
    assert all((now[name] == was[name]).all() for name in was)


def test_the_first_token_after_both_kinds_of_edits(write, tmp_path):
    flight = "{ op: scale, by: 0.1, tensor: mlp_out, at: { slot: city }, when: prefill }"
    finished = "{ op: zero, tensor: kv, at: { tokens: ['10..20'] }, when: finished_cache }"
    rows = {}
    for after in ("rerun_last", "reuse_logits"):
        spec = write(PLAIN + f"  - {{ name: flight, apply: [{flight}] }}\n  - {{ name: both, apply: [{finished}, {flight}] }}\n", after=after)
        run(spec, "--db", tmp_path / f"{after}.db")
        rows[after] = by_label(tmp_path / f"{after}.db")
    again, reuse = rows["rerun_last"], rows["reuse_logits"]
    assert again["a/flight"] == reuse["a/flight"] and again["a/baseline"] == reuse["a/baseline"]
    assert reuse["a/both"][0][0] == reuse["a/flight"][0][0] != again["a/both"][0][0]
    assert reuse["a/both"][0][1:] != reuse["a/flight"][0][1:]


@pytest.mark.parametrize("kv", ["f32", "bf16"])
def test_same_bits_for_any_batch_threads_and_instruction_set(kv, write, tmp_path):
    with open("/proc/cpuinfo") as f:
        flags = next(line for line in f if line.startswith("flags")).split()
    spec = write(CHANGES, kv=kv, after="rerun_last", tokens=5)
    expected = None
    for i, options in enumerate((["--batch", 1, "--threads", 1, "--isa", "scalar"], ["--batch", 7, "--threads", 2, "--isa", "avx2"],
                                 ["--batch", 32, "--threads", 2, "--isa", "avx512", "--shuffle", 3])):
        if options[-1] != "scalar" and not set({"avx2": ["avx2", "fma"]}.get(options[5], ["avx512f", "avx512bw"])) <= set(flags):
            continue
        run(spec, "--db", tmp_path / f"{i}.db", *options)
        got = fingerprint(tmp_path / f"{i}.db")
        expected = expected or got
        assert got == expected and len(got[2]) > 2000
        assert_clean(tmp_path / f"{i}.db")


def test_an_answer_is_made_again_only_for_activations_that_are_not_stored(write, tmp_path):
    db, edits = tmp_path / "r.db", PLAIN + "  - { name: z, apply: [{ op: zero, at: { slot: city }, when: prefill }] }\n"
    small = "capture: { tensors: [{ of: [baseline], tensors: [resid], layers: [1], at: { tokens: [3, '7..9'] } }] }"
    run(write(edits, capture=""), "--db", db)
    assert "2 to run" in run(write(edits, capture=small), "--db", db).stderr  # both baselines
    assert "0 to run" in run(write(edits, capture=small), "--db", db).stderr
    assert "0 to run" in run(write(edits, capture=small.replace("[3, '7..9']", "[8]")), "--db", db).stderr
    assert "2 to run" in run(write(edits, capture=small.replace("[1]", "all")), "--db", db).stderr
    assert "2 to run" in run(write(edits, capture=small.replace("baseline", "z")), "--db", db).stderr
    tensors, meta = export(db, "a/z", "pass", tmp_path)
    assert tensors["resid.1"].shape == (4, 64) and meta["positions"] == {"resid.1": [3, 7, 8, 9]}
    assert "resid" in run("show", "a/z", "--db", db).stdout
    missing = run("export", "safetensors", "--db", db, "--label", "a/noop", "--moment", "pass", "-o", tmp_path / "x", check=5)
    assert "no cache of 'a/noop' was kept" in missing.stderr
    assert_clean(db)


FOLDERS = sorted((ROOT / "tests/golden/tiny").iterdir())


def golden_edit(edit, positions):
    """An edit of the goldens as an operation of a spec; None: there is none."""
    if "do" not in edit:
        return None
    words = [f"op: {edit['do']}", f"at: {{ tokens: {positions} }}", f"when: {edit.get('when', 'finished_cache')}"]
    words += [f"tensor: {edit['of']}"] if "of" in edit else []
    words += [f"{key}: {edit[key]}" for key in ("layers", "heads", "by") if key in edit]
    words += ["from: { prompt: b, condition: none }"] if edit["do"] == "transplant" else []
    return "{ " + ", ".join(words) + " }"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_edits_and_activations_of_every_architecture_are_those_of_transformers(folder, tmp_path):
    golden, db, spec = json.loads((folder / "expected.json").read_text()), tmp_path / "r.db", tmp_path / "s.yaml"
    lines = ["kvrun: 1", "experiment: golden", f"model: {{ path: {folder} }}", "prompts:",
             f"  - {{ name: a, tokens: {golden['prompt']} }}", f"  - {{ name: b, tokens: {golden['donor']} }}", "conditions:"]
    for name, condition in golden["conditions"].items():
        op = golden_edit(condition["edit"], golden["positions"])
        lines.append(f"  - {{ name: {name}, apply: [{op}] }}" if op else f"  - {{ name: {name} }}")
    lines += [f"decode: {{ max_tokens: {golden['max_new_tokens']}, stop: none, after_edit: rerun_last }}",
              "capture: { tensors: [{ of: [none], tensors: [resid, embed, attn, logits] }] }"]
    spec.write_text("\n".join(lines) + "\n")
    run(spec, "--db", db)
    for name, want in golden["conditions"].items():
        got = sql(db, f"SELECT token_id, logprob FROM v_token WHERE label='a/{name}' ORDER BY step")
        for step, (token, logprob, margin) in enumerate(zip(want["tokens"], want["logprobs"], want["margins"])):
            if got[step]["token_id"] != token:
                assert margin < 1e-3, (name, step)
                break
            assert abs(got[step]["logprob"] - logprob) < 1e-3, (name, step)
    acts, _ = export(db, "a/none", "pass", tmp_path)
    want, compared = read_safetensors(folder / "expected.safetensors")[0], 0
    layers = sum(name.startswith("attn.") for name in acts)
    mine = {"hidden.0": acts["embed"], "logits": acts["logits"]}
    for layer in range(layers):
        mine[f"attn.{layer}"] = acts[f"attn.{layer}"].transpose(1, 0, 2)  # there heads come first
        if layer + 1 < layers:  # the last one is behind the final norm there
            mine[f"hidden.{layer + 1}"] = acts[f"resid.{layer}"]
    for name, got in mine.items():
        if name not in want:
            continue
        rows = want[name].shape[-2]  # some goldens keep the last rows
        got = got[..., -rows:, :]
        assert got.shape == want[name].shape, name
        assert abs(got - want[name]).max() <= 2e-4 * abs(want[name]).max(), name
        compared += 1
    assert compared >= 1
