"""The program on the CUDA backend, its kernels run by the emulator of tests/cuda_emu: the same experiments give the same answers.
KVRUN_TEST_BACKEND=cuda runs the file on a GPU (ci/gpu)."""
import json
import os
import pathlib

import pytest
from conftest import KVRUN, fingerprint, run, sql

import tiny_gguf  # of tests/, which conftest puts on the path

BACKEND = os.environ.get("KVRUN_TEST_BACKEND", "cuda-emu")
FOLDER = pathlib.Path(KVRUN).parent
BUILT = {"KVRUN_PLUGINS": str(FOLDER)}
LIBRARY = FOLDER / ("libkvrun_cuda_emu.so" if BACKEND == "cuda-emu" else "libkvrun_cuda.so")

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY} is not built")


def small(tiny_spec, tokens=5, **other):
    spec = tiny_spec(tokens=tokens, **other)
    spec.write_text(spec.read_text().replace("layer: { layers: all }", "layer: [1]").replace("tensor: [kv, k, v]", "tensor: [kv]"))
    return spec


def both(tiny_spec, tmp_path, kv):
    spec = small(tiny_spec, kv=kv)
    run(spec, "--db", tmp_path / "cpu.db", "--quiet")
    run(spec, "--db", tmp_path / "gpu.db", "--quiet", "--backend", BACKEND, **BUILT)
    rows = sql(tmp_path / "gpu.db", "SELECT DISTINCT numerics, gpu_name FROM v_result")
    assert len(rows) == 1 and rows[0]["numerics"].startswith("n1:cuda-") and rows[0]["gpu_name"]


def test_a_tiny_experiment_gives_the_bits_of_the_cpu(tiny_spec, tmp_path):
    """Quantised weights, f32 caches and prompts of less than 256 tokens are computed by the CPU's own arithmetic (kernels/cuda.h)."""
    both(tiny_spec, tmp_path, "f32")
    assert fingerprint(tmp_path / "gpu.db") == fingerprint(tmp_path / "cpu.db")


@pytest.mark.parametrize("kv", ["f16", "bf16"])
def test_a_tiny_experiment_with_caches_of_16_bits_is_near_the_cpu(tiny_spec, tmp_path, kv):
    """The tensor cores round queries and weights to the caches' type: up to a first choice that is closer than that, the tokens are
    the CPU's, and their log-probabilities are near."""
    both(tiny_spec, tmp_path, kv)
    near, steps = (0.02 if kv == "bf16" else 0.0025), 0
    want, got = (sql(tmp_path / db, "SELECT label, step, token_id, logprob, margin FROM v_token ORDER BY label, step")
                 for db in ("cpu.db", "gpu.db"))
    parted = set()
    for a, b in zip(want, got, strict=True):
        assert (a["label"], a["step"]) == (b["label"], b["step"])
        if a["label"] in parted:
            continue
        if a["token_id"] != b["token_id"]:
            assert a["margin"] < 2 * near, (a, b)
            parted.add(a["label"])
            continue
        assert abs(a["logprob"] - b["logprob"]) < near, (a, b)
        steps += 1
    assert steps > len(want) / 2


def test_the_cache_has_the_type_that_goes_with_weights_and_backend(tiny, tiny_spec, tmp_path):
    other = tmp_path / "bf16.gguf"
    tiny_gguf.write_model(str(other), seed=2, type="bf16", spread=0.2)
    spec = small(tiny_spec, tokens=2)
    text = spec.read_text().replace(", kv: f32", "")
    for model, backend, want in ((tiny, BACKEND, "f32"), (other, "cpu", "f32"), (other, BACKEND, "bf16")):
        spec.write_text(text.replace(str(tiny), str(model)))
        plan = json.loads(run("plan", spec, "--db", tmp_path / "x.db", "--json", "--backend", backend, **BUILT).stdout)
        assert plan["model"]["kv"] == want, (model, backend)
    run(spec, "--db", tmp_path / "gpu.db", "--quiet", "--backend", BACKEND, **BUILT)
    assert sql(tmp_path / "gpu.db", "SELECT DISTINCT dtype FROM kv_capture WHERE moment <> 'pass'") == [{"dtype": "bf16"}]


@pytest.mark.parametrize("weights", ["q4_1", "bf16"])
def test_no_bit_depends_on_batch_order_or_resume(tiny, tiny_spec, tmp_path, weights):
    spec = small(tiny_spec, kv="bf16", after="reuse_logits")
    if weights != "q4_1":  # tiny's own
        tiny_gguf.write_model(str(tmp_path / "other.gguf"), seed=3, type=weights, spread=0.2)
        spec.write_text(spec.read_text().replace(str(tiny), str(tmp_path / "other.gguf")))
    run(spec, "--db", tmp_path / "a.db", "--quiet", "--backend", BACKEND, **BUILT)
    for i, more in enumerate((["--batch", "1"], ["--batch", "5", "--shuffle", "3"])):
        run(spec, "--db", tmp_path / f"{i}.db", "--quiet", "--backend", BACKEND, *more, **BUILT)
        assert fingerprint(tmp_path / f"{i}.db") == fingerprint(tmp_path / "a.db")
    again = run(spec, "--db", tmp_path / "a.db", "--backend", BACKEND, **BUILT)
    assert "0 to run" in again.stderr


def test_edits_of_finished_caches_give_the_bits_of_the_cpu(tiny_spec, tmp_path):
    """Rows move within the device or go over the host in blocks (engine/edit_rows.c)."""
    edits = {"scale": "by: -2", "noise": "sigma: 2", "quantise": "bits: 2", "mean": 'over: { tokens: ["1..4"] }',
             "swap": "with: { tokens: [9] }, rope: rerotate", "transplant": "from: { prompt: other, at: { tokens: [5] } }, rope: rerotate"}
    apply = [f"op: {op}, tensor: kv, {keys}" for op, keys in edits.items()] + [f"op: evict, position_policy: {p}" for p in ("keep_holes", "compact_rerotate")]
    spec = small(tiny_spec, kv="f32")
    text = spec.read_text()
    spec.write_text(text[:text.index("  - name: zero")] +
                    "".join(f"  - {{ name: e{i}, apply: [{{ {a}, at: {{ tokens: [4] }}, when: finished_cache }}] }}\n" for i, a in enumerate(apply)) +
                    text[text.index("controls:"):].replace("of: [zero, swap], moments: [edited, end]", "moments: [edited]"))
    run(spec, "--db", tmp_path / "cpu.db", "--quiet")
    run(spec, "--db", tmp_path / "gpu.db", "--quiet", "--backend", BACKEND, **BUILT)
    assert fingerprint(tmp_path / "gpu.db") == fingerprint(tmp_path / "cpu.db")
    assert len(fingerprint(tmp_path / "gpu.db")[1]) >= 2 * (1 + len(apply))


def test_what_a_pass_reads_does_not_wait_for_what_is_stored(tiny_spec, tmp_path):
    """Scores read caches inside of a pass, whose thread has the device; the writer reads others and asks for trouble meanwhile."""
    spec = small(tiny_spec, tokens=2)
    text = spec.read_text()
    spec.write_text(text[:text.index("  - name: zero")] + "".join(
        f'  - {{ name: s{i}, apply: [{{ op: mask, at: {{ score: attention, lowest: {i + 1} }}, when: finished_cache }}] }}\n' for i in range(12)) +
        "capture: { kv: [{ moments: [prefill, edited, end] }] }\n" + text[text.index("decode:"):].split("capture:")[0])
    done = run(spec, "--db", tmp_path / "gpu.db", "--backend", BACKEND, "--batch", "1", **BUILT)
    assert "26 of 26 jobs" in done.stderr


SMOLLM2 = """\
kvrun: 1
experiment: emulated
model: { path: $KVRUN_MODELS/SmolLM2-135M-Instruct.Q4_1.gguf }
prompts:
  - { name: paris, text: "The capital of France is" }
conditions: [{ name: baseline }]
decode: { greedy: true, max_tokens: 8, stop: none, after_edit: rerun_last }
run: { db: results.db }
"""


def test_smollm2_says_the_same_on_both(smollm2, tmp_path):
    spec = tmp_path / "smollm2.yaml"
    spec.write_text(SMOLLM2)
    run(spec, "--db", tmp_path / "cpu.db", "--quiet")
    run(spec, "--db", tmp_path / "gpu.db", "--quiet", "--backend", BACKEND, **BUILT)
    want, got = (sql(tmp_path / db, "SELECT step, token_id, logprob FROM v_token ORDER BY step") for db in ("cpu.db", "gpu.db"))
    assert [t["token_id"] for t in got] == [t["token_id"] for t in want] and len(want) == 8
    assert max(abs(a["logprob"] - b["logprob"]) for a, b in zip(want, got)) < 1e-3
