"""Models of all kinds on the CUDA backend, run by the emulator: operations at every moment give the CPU's bits where caches are f32, and
with bf16 caches bits that no batch and no order changes. KVRUN_TEST_BACKEND=cuda runs the file on a GPU."""
import json
import random

import pytest
from conftest import ROOT, fingerprint, run
from test_cuda_emu import BACKEND, BUILT, LIBRARY

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY} is not built")

# What is edited at token 4, in one tensor each: copies and fills, numbers over the host, hidden tokens, scores, edits in flight.
OPERATIONS = [f"op: {op}, at: {{ {at} }}, when: {when}{more}" for op, at, when, more in (
    ("zero, tensor: kv", "tokens: [4]", "finished_cache", ""),
    ("noise, tensor: k", "tokens: [4]", "finished_cache", ", sigma: 2"),
    ("scale, tensor: v", "tokens: [4]", '{ steps: "1..2" }', ", by: -2"),
    ("zero, tensor: k_pre", "tokens: [4]", "prefill", ""),
    ("scale, tensor: resid", "tokens: [4]", "prefill", ", by: -2"),
    ("zero, tensor: head_out", "tokens: [4]", "prefill", ""),
    ("mask", "tokens: [4]", "prefill", ""),
    ("evict", "tokens: [4]", "finished_cache", ", position_policy: keep_holes"),
    ("evict", "tokens: [4]", "prefill", ", position_policy: compact_rerotate"),
    ("knockout, heads: [0]", "tokens: [4]", "prefill", ""),
    ("mask", 'score: attention, lowest: "50 %"', "finished_cache", ""),
    ("mask", 'gen: "0..1"', "every_step", ""))]


def spec(folder, path, kv):
    vocabulary, draw = json.loads((folder / "config.json").read_text())["vocab_size"], random.Random(7)
    prompts = "".join(f"  - {{ name: {name}, tokens: {[draw.randrange(3, vocabulary) for _ in range(n)]} }}\n" for name, n in (("a", 30), ("b", 70)))
    conditions = "".join(f"  - {{ name: c{i}, apply: [{{ {op} }}] }}\n" for i, op in enumerate(OPERATIONS))
    path.write_text(f"kvrun: 1\nexperiment: models\nmodel: {{ path: {folder}, kv: {kv} }}\nprompts:\n{prompts}conditions:\n  - name: baseline\n"
                    f"{conditions}decode: {{ max_tokens: 3, stop: none, after_edit: rerun_last }}\n"
                    "capture: { kv: [{ moments: [end] }] }\nallow: [W107, W109, W116]\n")
    return path


@pytest.fixture
def answers(tmp_path):
    def of(name, kv, *args):
        db = tmp_path / f"{kv}{len(list(tmp_path.iterdir()))}.db"
        run(spec(ROOT / "tests/golden/tiny" / name, tmp_path / "models.yaml", kv), "--db", db, "--quiet", *args, **BUILT)
        return fingerprint(db)
    return of


@pytest.mark.parametrize("name", ["gpt2", "neox", "gemma2-long", "mistral-long", "olmo2-biased", "phi3-window", "qwen3"])
def test_weights_and_caches_in_f32_give_the_bits_of_the_cpu(answers, name):
    want = answers(name, "f32", "--backend", "cpu")
    assert len(want[1]) == 2 * (1 + len(OPERATIONS)) and want[2]
    assert answers(name, "f32", "--backend", BACKEND) == want


@pytest.mark.parametrize("name", ["gpt2-by-layer", "neox-serial", "gemma2", "mistral", "llama-3"])
def test_weights_and_caches_of_16_bits_give_bits_that_no_batch_changes(answers, name):
    assert answers(name, "bf16", "--backend", BACKEND) == answers(name, "bf16", "--backend", BACKEND, "--batch", "3", "--shuffle", "2")
