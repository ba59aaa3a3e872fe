"""The program as a user runs it. KVRUN names the binary (build/kvrun), KVRUN_ASAN the one with sanitizers."""
import json
import os
import pathlib
import sqlite3
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KVRUN = os.environ.get("KVRUN", str(ROOT / "build/kvrun"))
KVRUN_ASAN = os.environ.get("KVRUN_ASAN", str(ROOT / "build/asan/kvrun"))
PLUGINS = pathlib.Path(KVRUN).parent / "plugins"  # those of tests/plugin
MODELS = pathlib.Path(os.environ.get("KVRUN_MODELS", ROOT / "models"))
SMOLLM2 = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
sys.path.insert(0, str(ROOT / "tests"))


def run(*args, binary=KVRUN, check=0, **env):
    """Runs kvrun; `check` is the exit code expected, None for any. Returns the finished process, text decoded."""
    # Tests are of the CPU also where there is a GPU, unless they name a folder of plug-ins.
    full = {**os.environ, "KVRUN_MODELS": str(MODELS), "KVRUN_PLUGINS": str(PLUGINS / "none"), **env}
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True, cwd=ROOT, env=full, timeout=600)
    if check is not None:
        assert done.returncode == check, f"exit {done.returncode}, expected {check}\n{done.stdout}\n{done.stderr}"
    return done


def sql(db, query, binary=KVRUN):
    return json.loads(run("sql", "--db", db, "--json", query, binary=binary).stdout)


def fingerprint(db):
    """All that must not depend on how the work was done: tokens with their exact numbers, texts, and the caches' content."""
    con = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    tokens = con.execute("SELECT label, step, token_id, logprob, margin FROM v_token ORDER BY label, step").fetchall()
    texts = con.execute("SELECT label, text, n_prompt, n_gen, stop FROM v_result ORDER BY label").fetchall()
    caches = con.execute("SELECT label, moment, layer, tensor, tok_start, n_tok, hex(b.xxh128) FROM v_kv JOIN blob b ON b.id = v_kv.blob_id "
                         "ORDER BY label, moment, layer, tensor, tok_start").fetchall()
    con.close()
    return [(a, b, c, float(d).hex(), float(e).hex()) for a, b, c, d, e in tokens], texts, caches


def assert_clean(db):
    con = sqlite3.connect(db)
    assert con.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert con.execute("PRAGMA foreign_key_check").fetchall() == []
    if not con.execute("SELECT 1 FROM sqlite_schema").fetchall():
        return  # killed before the schema was committed: an empty file, which the next run fills
    assert con.execute("SELECT count(*) FROM attempt a LEFT JOIN generation g ON g.attempt_id = a.id "
                       "WHERE a.status = 'done' AND g.attempt_id IS NULL").fetchone() == (0,)
    con.close()


TINY_SPEC = """\
kvrun: 1
experiment: tiny
model: {{ path: {model}, kv: {kv} }}
prompts:
  - name: [a, b]
    slots: {{ city: [SF, NY] }}
    chat:
      - user: "I am flying to {{{{city}}}} next week. Think about it, but do not answer yet, since I will ask you later about San Francisco."
      - assistant: "Okay."
      - user: "Which city?"
    ask: assistant
    answer_starts: "You are flying to"
axes: {{ layer: {{ layers: all }}, tensor: [kv, k, v] }}
conditions:
  - name: baseline
  - name: zero
    apply: [{{ op: zero, layers: all, at: {{ slot: city }}, when: finished_cache }}]
  - name: mask
    apply: [{{ op: mask, layers: all, at: {{ slot: city }}, when: finished_cache }}]
  - name: swap
    over: [layer, tensor]
    apply:
      - op: transplant
        tensor: $tensor
        layers: [$layer]
        at: {{ slot: city }}
        from: {{ prompt: other, condition: baseline, at: {{ slot: city }} }}
        align: same_length
        when: finished_cache
controls: [noop, self_transplant]
decode: {{ greedy: true, max_tokens: {tokens}, stop: none, after_edit: {after} }}
capture:
  kv:
    - {{ of: [baseline], moments: [prefill, end] }}
    - {{ of: [zero, swap], moments: [edited, end] }}
metrics:
  - {{ name: says_sf, mentions: {{ any: [SF, San Francisco] }} }}
  - {{ name: first_divergence, against: baseline }}
run: {{ db: results.db }}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random model with a tokenizer and a chat template."""
    import tiny_gguf
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    tiny_gguf.write_model(str(path), seed=1, type="q4_1", spread=0.2)  # wide enough for edits to change texts
    return path


@pytest.fixture
def tiny_spec(tiny, tmp_path):
    """Writes a spec over the tiny model; returns its path."""
    def write(kv="f32", tokens=24, after="rerun_last", name="tiny.yaml"):
        path = tmp_path / name
        path.write_text(TINY_SPEC.format(model=tiny, kv=kv, tokens=tokens, after=after))
        return path
    return write


@pytest.fixture(scope="session")
def smollm2():
    if not SMOLLM2.exists():
        pytest.skip("the default model is not there (ci/fetch-model)")
    return SMOLLM2
