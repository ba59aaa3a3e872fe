"""What kvrun says of the machine: doctor and bench, on the CPU and with the plug-ins of tests/plugin."""
import json
import pathlib

import pytest
from conftest import KVRUN, PLUGINS, run

FAKE = {"KVRUN_PLUGINS": str(PLUGINS / "fake")}
BUILT = pathlib.Path(KVRUN).parent
EMULATOR = {"KVRUN_PLUGINS": str(BUILT)}
emulated = pytest.mark.skipif(not (BUILT / "libkvrun_cuda_emu.so").exists(), reason="the emulator is not built")
ALONE = {"OMP_NUM_THREADS": "1"}  # a shorter self-test


def findings(done):
    return {f["name"]: f for f in json.loads(done.stdout)["findings"]}


def test_doctor_needs_no_gpu_and_tells_what_is_there(tmp_path):
    done = run("doctor", "--db", tmp_path / "x.db")
    assert done.stdout.endswith("kvrun can run here.\n") and "equal bits in" in done.stdout
    found = findings(run("doctor", "--json", "--db", tmp_path / "x.db", KVRUN_MODELS=str(tmp_path), **ALONE))
    assert found["gpu"]["state"] == "note" and "no libkvrun_cuda.so" in found["gpu"]["text"]
    assert found["models"]["state"] == "note" and "scalar" in found["instructions"]["text"]
    assert found["determinism"]["state"] == "good" and found["sqlite"]["state"] == "good"
    # there or not: no run needs it
    assert found["cublas"]["state"] == "good" and found["cublas"]["text"].endswith("; only kvrun bench uses it, to compare")


def test_doctor_names_what_is_missing_for_a_gpu(tmp_path):
    for plugin, words in (("needy", "needs libcublas_of_tests.so, which is not installed"), ("wrong", "is not a plug-in of kvrun")):
        done = run("doctor", "--json", KVRUN_PLUGINS=str(PLUGINS / plugin), **ALONE)
        assert words in json.loads(done.stdout)["gpu"]["why"]
    gpu = json.loads(run("doctor", "--json", **FAKE, **ALONE).stdout)["gpu"]
    assert gpu["usable"] and gpu["why"] is None and gpu["plugin"].endswith("fake/libkvrun_cuda.so") and gpu["runtime"] == 13000
    done = run("doctor", "--json", KVRUN_FAKE_OPEN="no CUDA-capable device is detected (100)", **FAKE, **ALONE)
    assert "no CUDA-capable device is detected (100)" in json.loads(done.stdout)["gpu"]["why"]


def test_doctor_is_exit_3_where_nothing_can_be_stored(tmp_path):
    bad = tmp_path / "bad.db"
    bad.write_text("this is no database, but it is long enough to be looked at as if it were one" * 20)
    done = run("doctor", "--db", bad, check=3, **ALONE)
    assert "! database" in done.stdout and "kvrun cannot run here" in done.stdout
    done = run("doctor", "--db", tmp_path / "no" / "such" / "x.db", check=3, **ALONE)
    assert "cannot be written to" in done.stdout
    assert "unknown option" in run("doctor", "--shape", "tiny", check=2).stderr


@pytest.mark.parametrize("env", [{}, FAKE], ids=["cpu", "fake"])
def test_bench_of_a_tiny_shape(env):
    done = run("bench", "--shape", "tiny", "--weights", "q8_0", "--layers", "1", "--prefix", "64", "--json", **env)
    b = json.loads(done.stdout)
    assert b["backend"] == ("cuda" if env else "cpu") and b["layers"] == 1 and b["kv"] == "bf16" and b["prefix"] == 64
    assert [d["rows"] for d in b["decode"]] == [1, 32, 64] and all(d["tokens_per_second"] > 0 for d in b["decode"])
    assert [p["tokens"] for p in b["prefill"]] == [512, 2048] and b["prefill"][0]["seconds"] > 0
    assert b["prefill"][1]["seconds"] is None  # the context is 1024
    head = next(o for o in b["decode"][1]["ops"] if o["op"] == "matmul head")
    assert head["bytes"] == 512 * 256 / 32 * 34 and head["flops"] == 2 * 32 * 512 * 256
    assert b["limits"]["bytes_per_second"] > 1e8 and b["limits"]["flops_per_second"] > 1e6
    assert "library" not in b and "library" not in json.dumps(b["decode"])  # neither has a vendor
    assert ("ops" in b["prefill"][0]) == bool(env)  # products of a prefill are a GPU's matter


PRODUCTS = ["matmul q k v", "matmul o", "matmul gate up", "matmul down"]


@emulated
def test_bench_compares_each_product_with_cublas(tmp_path):
    args = ["bench", "--shape", "tiny", "--layers", "2", "--prefix", "64", "--backend", "cuda-emu"]
    out = run(*args, "-o", tmp_path / "b.json", **EMULATOR).stdout
    b = json.loads((tmp_path / "b.json").read_text())
    assert b["library"] == {"name": "cuBLAS", "why": None} and "not compared" not in out
    flops_how = b["limits"]["flops_how"]  # the better of the two, and which
    assert flops_how.startswith("a bf16 product of ") and flops_how.endswith((", cuBLAS's", ", ours, not cuBLAS's"))
    for d in b["decode"]:
        assert [o["op"] for o in d["ops"] if "library_seconds" in o] == PRODUCTS + ["matmul head"]
        assert [o["op"] for o in b["prefill"][0]["ops"]] == PRODUCTS
    assert b["prefill"][0]["rows"] == 256 and "ops" not in b["prefill"][1]  # a pass on the emulator; the context is 1024
    for o in [o for part in b["decode"] + b["prefill"][:1] for o in part["ops"] if o["op"] in PRODUCTS]:
        assert 0 < o["library_seconds"] < 10 and abs(o["library_ratio"] - o["seconds"] / o["library_seconds"]) < 1e-6 * o["library_ratio"]
    lines = out.splitlines()
    heads = [i for i, line in enumerate(lines) if line.endswith("| cuBLAS, bf16: ms | ours / cuBLAS |")]
    assert len(heads) == 4 and lines[heads[3]].startswith("| products of a prefill, rows = 256 |")
    for i in heads:
        assert lines[i].count("|") == 9
        for row in lines[i + 1:i + 1 + (12 if i < heads[3] else 5)]:
            assert row.count("|") == 9 and (row.startswith("|---") or row.startswith("| matmul") == (row[-5:] != "| | |"))


@emulated
def test_bench_says_why_there_is_no_comparison(tmp_path):
    args = ["bench", "--shape", "tiny", "--layers", "1", "--prefix", "64", "--backend", "cuda-emu", "-o", tmp_path / "b.json"]
    for how, why in (("none", "no libcublas.so.13, .12 or .11 can be loaded"), ("wrong", "its product is wrong: ")):
        lines = run(*args, CUDA_EMU_CUBLAS=how, **EMULATOR).stdout.splitlines()
        b = json.loads((tmp_path / "b.json").read_text())
        assert len([line for line in lines if "cuBLAS" in line]) == 1 and lines[-1].startswith(f"not compared with cuBLAS: {why}")
        assert b["library"]["why"].startswith(why) and b["limits"]["flops_how"].endswith(" rows")
        assert [o["library_seconds"] for o in b["decode"][0]["ops"] if o["op"] in PRODUCTS] == [None] * 4


def test_bench_prints_tables_for_a_model_file(tiny, tmp_path):
    out = run("bench", tiny, "--kv", "f32", "--prefix", "70", "--threads", "1", "-o", tmp_path / "numbers.json").stdout
    assert json.loads((tmp_path / "numbers.json").read_text())["prefix"] == 70
    assert "| B = 32 |" in out and "| matmul gate up |" in out and "limits measured here" in out and "tiny llama" in out
    for line in out.splitlines():
        assert not line.startswith("|") or line.count("|") in (6, 7)


def test_bench_refuses_what_does_not_fit():
    done = run("bench", "--shape", "llama-3.1-8b", check=3, KVRUN_FAKE_MEMORY=str(8 << 30), **FAKE)
    assert "needs 14.96 GiB for its weights, 8.00 GiB are free" in done.stderr
    assert "give a model or --shape" in run("bench", check=2).stderr
    assert "go with --shape" in run("bench", "x.gguf", "--layers", "2", check=2).stderr
    assert "are not whole blocks of q4_k" in run("bench", "--shape", "smollm2-135m", "--weights", "q4_k", check=2).stderr
    assert "cannot be made up" in run("bench", "--shape", "tiny", "--weights", "q2", check=2).stderr
