"""Causal tracing by kvrun and by a loop over transformers, in one run: the same recovery maps, and the time of both.

    python bench/causal_trace.py build/kvrun models/SmolLM2-135M-Instruct.Q4_1.gguf

Needs torch and transformers, which the tests never do. The loop is the usual one: a forward hook puts one clean state back, one
pass per layer and position."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/oracle"))
from edits import normal  # noqa: E402

SIGMA, SEED, SITE_RESID = 0.3, 1, 8


def sql(kvrun, db, query):
    return json.loads(subprocess.run([kvrun, "sql", "--db", db, "--json", query], capture_output=True, text=True, check=True).stdout)


def run_kvrun(kvrun, model, db):
    start = time.perf_counter()
    env = {**os.environ, "KVRUN_MODELS": str(model.parent)}
    subprocess.run([kvrun, "run", str(ROOT / "experiments/causal_trace.yaml"), "--db", db, "--progress", "none", "-q",
                    "--only", "*/clean", "--only", "*/corrupt", "--only", "*/resid/*"], check=True, env=env)
    return time.perf_counter() - start


def state_of(out):
    return out[0] if isinstance(out, tuple) else out


def maps(model, ids, subject, answer):
    """Recovery per (layer, position), and the seconds of the loop alone."""
    layers, D = model.model.layers, model.config.hidden_size
    noise = torch.tensor([[normal(SEED, SITE_RESID, -1, p, e) for e in range(D)] for p in subject], dtype=torch.float64).float() * SIGMA
    clean, ids = [], torch.tensor([ids])

    def prob():
        return torch.softmax(model(ids, use_cache=False).logits[0, -1].double(), -1)[answer].item()

    def corrupt(module, args, out):
        out = out.clone()
        out[0, subject] += noise
        return out

    hooks = [layer.register_forward_hook(lambda m, a, out: clean.append(state_of(out)[0].clone())) for layer in layers]
    p_clean = prob()
    for h in hooks:
        h.remove()
    model.model.embed_tokens.register_forward_hook(corrupt)
    p_corrupt = prob()
    start, out = time.perf_counter(), []
    for l, layer in enumerate(layers):
        for p in range(ids.shape[1]):
            def restore(module, args, result):
                state_of(result)[0, p] = clean[l][p]
                return result
            h = layer.register_forward_hook(restore)
            out.append((l, p, (prob() - p_corrupt) / (p_clean - p_corrupt)))
            h.remove()
    seconds = time.perf_counter() - start
    model.model.embed_tokens._forward_hooks.clear()
    return out, seconds


def main():
    kvrun, path = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as tmp:
        before = run_kvrun(kvrun, path, f"{tmp}/r.db")
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as tmp:
        db = f"{tmp}/r.db"
        ours = run_kvrun(kvrun, path, db)
        theirs, worst, n = 0.0, 0.0, 0
        for name in ("eiffel", "colosseum"):
            tokens = sql(kvrun, db, f"SELECT token_id FROM v_prompt_token WHERE prompt='{name}' ORDER BY pos")
            span = sql(kvrun, db, "SELECT tok_start, tok_end FROM prompt_span s JOIN spec_prompt p ON p.id=s.spec_prompt_id "
                                  f"WHERE p.name='{name}'")[0]
            answer = sql(kvrun, db, f"SELECT token_id FROM answer_token a JOIN v_latest l USING (attempt_id) WHERE label='{name}/clean'")[0]
            mine = {(int(r["layer"]), int(r["pos"])): r["value"] for r in sql(
                kvrun, db, "SELECT l.value AS layer, p.value AS pos, m.value FROM v_metric m JOIN factor l ON l.spec_job_id=m.spec_job_id "
                "AND l.name='layer' JOIN factor p ON p.spec_job_id=m.spec_job_id AND p.name='pos' "
                f"WHERE m.metric='recovered' AND m.condition='resid' AND m.prompt='{name}'")}
            got, seconds = maps(model, [t["token_id"] for t in tokens], list(range(span["tok_start"], span["tok_end"])),
                                answer["token_id"])
            theirs, n = theirs + seconds, n + len(got)
            worst = max([worst] + [abs(mine[l, p] - v) for l, p, v in got])
        after = run_kvrun(kvrun, path, f"{tmp}/again.db")
    ours = (before + ours + after) / 3
    print(f"{n} patches · largest difference of recovery {worst:.1e} · transformers {theirs:.1f} s ({1e3 * theirs / n:.0f} ms each) · "
          f"kvrun {ours:.2f} s in the mean of three, opening the model and the database included · 1/{theirs / ours:.1f}")
    return worst > 1e-3


if __name__ == "__main__":
    sys.exit(main())
