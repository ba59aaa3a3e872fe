"""ci/gpu, which needs a GPU, rehearsed on the emulator; and what it reads of kvrun's words."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import KVRUN, ROOT, run

BUILT = pathlib.Path(KVRUN).parent
SCRIPT = ROOT / "ci/gpu"

emulated = pytest.mark.skipif(not (BUILT / "libkvrun_cuda_emu.so").exists(), reason="the emulator is not built")


def script(*args, check=0, **env):
    done = subprocess.run([SCRIPT, *map(str, args)], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}, timeout=600)
    assert done.returncode == check, f"exit {done.returncode}, expected {check}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    out = tmp_path_factory.mktemp("rehearsal")
    return out, script("rehearse", BUILT, OUT=str(out), KVRUN_MODELS=str(out))


@emulated
def test_the_whole_script_runs_on_the_emulator(rehearsed):
    out, done = rehearsed
    steps = re.findall(r"^== (.*) \(\d+ s\)$", done.stdout, re.M)
    assert steps == ["what is here", "every operation against the CPU, on the device", "a tiny experiment, against the CPU",
                     "speed: the shape of Llama-3.1-8B, bf16", "64 jobs of the same shape, captures stored", "speed: SmolLM2",
                     "the needle experiment, against the CPU", "the program on the device", "compute-sanitizer", "the bars", "end"]
    assert "FAILED" not in done.stdout + done.stderr and "skipped" not in done.stdout.replace("skipped: no pytest", "")
    programs = len(list((ROOT / "tests/cuda").glob("test_*.c")))
    assert len(list((out / "packed").glob("test_cuda_*_emu"))) == programs
    assert done.stdout.count("emulated device, compute capability") == 2 * programs  # once more under the sanitizer's stand-in
    assert re.search(r"^tiny: every token of 8 jobs is the CPU's$", done.stdout, re.M)


@emulated
def test_a_rehearsal_is_not_taken_for_a_result(rehearsed):
    out, done = rehearsed
    assert done.stdout.startswith("REHEARSAL on the emulator") and done.stdout.rstrip().splitlines()[-1].startswith("rehearsal: ")
    bars = (out / "bars.md").read_text()
    assert bars.startswith("REHEARSAL on the emulator: these numbers mean nothing\n") and bars in done.stdout
    assert len(re.findall(r"^\| .* \| [0-9,.]+ \| [0-9,]+ \| rehearsal \|$", bars, re.M)) == 4
    assert "reached" not in bars and "passed; tables are in" not in done.stdout


def numbers(tmp_path):
    """A folder as a run on a GPU leaves it."""
    ops = [{"op": f"matmul {part}", "library_ratio": 1.25} for part in ("q k v", "o", "gate up", "down")]
    decode = [{"rows": rows, "tokens_per_second": speed, "ops": ops} for rows, speed in ((1, 250.0), (32, 6000.0), (64, 12000.0))]
    b = {"device": "a GPU", "date": "2026-01-01", "backend": "cuda", "model": "llama-3.1-8b (made up)", "weights": "bf16",
         "prefix": 2048, "library": {"name": "cuBLAS", "why": None}, "decode": decode,
         "prefill": [{"tokens": n, "rows": n, "seconds": n / 50000, "ops": ops} for n in (512, 2048)]}
    log = ("family  64 jobs: 64 to run, 0 stored · 1 prompts · made-up weights bf16 (000000…)\n"
           "done  64 of 64 jobs in 2.1 s (loading 9.8 s): 64 new, 0 stored before, 0 failed · 6400 tokens\n")
    return b, log


def bars(tmp_path, b, log, check):
    for name, text in (("llama-3.1-8b.json", b and json.dumps(b)), ("family.log", log)):
        (tmp_path / name).unlink(missing_ok=True)
        if text is not None:
            (tmp_path / name).write_text(text)
    return script("bars", tmp_path, check=check)


def test_bars_of_a_gpu_are_judged(tmp_path):
    b, log = numbers(tmp_path)
    out = bars(tmp_path, b, log, 0).stdout
    assert "REHEARSAL" not in out
    assert "| B = 1, tok/s | 250.0 | 240 | reached |" in out
    assert "| B = 64 behind 2048 shared tokens, tok/s | 12,000.0 | 13,000 | not reached |" in out
    assert "| prefill of 2048 tokens, ms | 41.0 | 50 | reached |" in out
    assert "| 64 jobs x 100 tokens, captures stored, loading left out, s | 2.1 | 3 | reached |" in out  # and not 9.8
    assert "| matmul gate up | 1.25 | 1.25 | 1.25 | 1.25 | 1.25 |" in out


@pytest.mark.parametrize("change, words", [
    (lambda b: b["decode"].pop(0), "B = 1, tok/s: 0 entries with rows 1"),
    (lambda b: b["decode"][2].pop("tokens_per_second"), "no field 'tokens_per_second'"),
    (lambda b: b["decode"][0].update(tokens_per_second=0), "tokens_per_second is 0"),
    (lambda b: b["prefill"][1].update(seconds=None), "prefill of 2048 tokens, ms: seconds is None"),
    (lambda b: b.pop("prefill"), "no field 'prefill'"),
    (lambda b: b.update(prefix=512), "the shared prefix is 512 tokens"),
    (lambda b: b.pop("library"), "comparison with cuBLAS: no field 'library'"),
    (lambda b: b["decode"][1].update(ops=[]), "0 products are compared with cuBLAS at 32 rows"),
])
def test_a_missing_number_is_a_failure(tmp_path, change, words):
    b, log = numbers(tmp_path)
    change(b)
    done = bars(tmp_path, b, log, 1)
    assert words in done.stderr and "| 2.1 | 3 | reached |" in done.stdout  # the other rows are there all the same


@pytest.mark.parametrize("old, new", [
    ("64 of 64 jobs in 2.1 s", "63 of 64 jobs in 2.1 s"), (" (loading 9.8 s)", ""), ("64 new", "60 new"), ("0 failed", "1 failed"),
    ("done  ", "stop  "), ("jobs in 2.1 s", "jobs after 2.1 s")])
def test_a_family_that_does_not_tell_its_time_is_a_failure(tmp_path, old, new):
    b, log = numbers(tmp_path)
    assert log.count(old) == 1
    done = bars(tmp_path, b, log.replace(old, new), 1)
    assert "family.log does not tell of 64 new jobs" in done.stderr and "loading left out, s |  | 3 | MISSING |" in done.stdout
    assert "family.log: No such file" in bars(tmp_path, b, None, 1).stderr
    assert "llama-3.1-8b.json: " in bars(tmp_path, None, log, 1).stderr


def test_without_python_the_tables_are_left_to_the_reader(tmp_path):
    """A PATH with the tools of a bare machine alone: neither python3 nor a compiler."""
    if not (BUILT / "libkvrun_cuda_emu.so").exists():
        pytest.skip("the emulator is not built")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash env dirname basename nproc seq find head timeout cat grep rm mkdir realpath du cut cp ldd awk sort df tail "
                 "mktemp cmp diff printf chmod sh uname ls").split():
        if shutil.which(name):
            (tools / name).symlink_to(shutil.which(name))
    start = tmp_path / "start"  # common.sh stands for the paths: the script itself names /usr/bin/python3, too
    shutil.copytree(ROOT / "ci", start / "ci")
    text = (start / "ci/gpu").read_text()
    assert text.count("python3 /usr/bin/python3") == 1
    (start / "ci/gpu").write_text(text.replace("python3 /usr/bin/python3", "python3"))
    (start / "tests/cuda").mkdir(parents=True)
    shutil.copy(ROOT / "tests/cuda/test_cuda_rows.c", start / "tests/cuda")
    done = subprocess.run([start / "ci/gpu", "rehearse", BUILT], capture_output=True, text=True, timeout=600,
                          env={"PATH": str(tools), "OUT": str(tmp_path / "out"), "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("skipped: no python3") == 2 and "by eye" in done.stdout and "| B = 64 |" in done.stdout
    assert "rehearsal: ci/gpu ran" in done.stdout and "not found" not in done.stderr


def test_nothing_is_told_without_a_gpu(tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU here")
    packed = tmp_path / "packed"
    packed.mkdir()
    shutil.copy(KVRUN, packed)
    done = script("run", packed, check=3, OUT=str(tmp_path / "out"))
    assert "no usable GPU: nothing was tested, nothing measured" in done.stderr and "bars" not in done.stdout


def test_the_summary_tells_loading_apart(tmp_path):
    """The time of the jobs leaves out reading and hashing the model: here that is most of the program's."""
    model = tmp_path / "large.gguf"
    subprocess.run([sys.executable, ROOT / "tests/shape_gguf.py", model, "--layers", "1", "--set", "dim=64", "--set", "heads=2",
                    "--set", "kv_heads=1", "--set", "head_dim=32", "--set", "ffn=64", "--set", "vocab=1500000"], check=True)
    spec = tmp_path / "large.yaml"
    spec.write_text(f"kvrun: 1\nexperiment: large\nmodel: {{ path: {model} }}\nprompts: [{{ name: p, tokens: [1, 2, 3] }}]\n"
                    "conditions: [{ name: baseline }]\ndecode: { greedy: true, max_tokens: 1, stop: none, after_edit: rerun_last }\n"
                    "run: { db: large.db }\n")
    from_ = time.monotonic()
    hashlib.sha256(model.read_bytes()).digest()
    hashing = time.monotonic() - from_
    from_ = time.monotonic()
    said = run(spec, "--db", tmp_path / "large.db", "--backend", "cpu").stderr
    whole = time.monotonic() - from_
    jobs, loading = map(float, re.search(r"^done  1 of 1 jobs in ([0-9.]+) s \(loading ([0-9.]+) s\): 1 new", said, re.M).groups())
    assert hashing > 0.1 and loading > 0.3 * hashing and jobs + loading <= whole + 0.1  # each is rounded to a tenth
