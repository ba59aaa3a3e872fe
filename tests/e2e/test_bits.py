"""Results may not depend on batch, threads, instruction set, order of work, a resume or a kill: bit for bit."""
import os
import random
import signal
import subprocess
import time

import pytest
from conftest import KVRUN, KVRUN_ASAN, ROOT, assert_clean, fingerprint, run, sql


@pytest.fixture(scope="module")
def cpu_flags():
    with open("/proc/cpuinfo") as f:
        return next(line for line in f if line.startswith("flags")).split()


def has(isa, flags):
    need = {"scalar": [], "avx2": ["avx2", "fma", "f16c"], "avx512": ["avx512f", "avx512bw", "avx512dq", "avx512vl"]}
    return all(f in flags for f in need[isa])


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_same_bits_for_any_batch_threads_and_instruction_set(isa, kv, tiny_spec, tmp_path, cpu_flags):
    if not has(isa, cpu_flags):
        pytest.skip(f"this processor lacks {isa}")
    spec = tiny_spec(kv=kv)
    run(spec, "--db", tmp_path / "first.db", "--batch", 1, "--threads", 1, "--isa", "scalar")
    expected = fingerprint(tmp_path / "first.db")
    assert len(expected[0]) > 400 and len(expected[2]) > 100
    for batch in (1, 3, 16):
        for threads in (1, 2):
            db = tmp_path / f"{batch}-{threads}.db"
            run(spec, "--db", db, "--batch", batch, "--threads", threads, "--isa", isa, "--shuffle", batch + threads)
            assert fingerprint(db) == expected
            assert_clean(db)


@pytest.mark.parametrize("after", ["rerun_last", "reuse_logits"])
def test_noop_and_self_transplant_equal_baseline(after, tiny_spec, tmp_path):
    db = tmp_path / "r.db"
    run(tiny_spec(after=after), "--db", db)
    rows = {}
    for r in sql(db, "SELECT label, step, token_id, logprob, margin FROM v_token ORDER BY label, step"):
        rows.setdefault(r["label"], []).append((r["step"], r["token_id"], r["logprob"], r["margin"]))
    for prompt in "ab":
        assert rows[f"{prompt}/noop"] == rows[f"{prompt}/baseline"] == rows[f"{prompt}/self_transplant"]
        assert rows[f"{prompt}/zero"] != rows[f"{prompt}/baseline"]
    if after == "reuse_logits":  # the first token was picked before the edit
        assert rows["a/zero"][0] == rows["a/baseline"][0]


def test_killed_fifty_times_and_resumed(tiny_spec, tmp_path):
    spec, whole = tiny_spec(tokens=200), tmp_path / "whole.db"
    before = time.time()
    run(spec, "--db", whole, "--batch", 2)
    length, expected = time.time() - before, fingerprint(whole)
    rng, kills, finished, resumed = random.Random(11), 0, 0, 0
    db = tmp_path / "0.db"
    while kills < 50:
        p = subprocess.Popen([KVRUN, str(spec), "--db", str(db), "--batch", "2", "-q"], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, cwd=ROOT)
        time.sleep(rng.random() * length * 0.6)
        if p.poll() is None:
            p.send_signal(signal.SIGKILL)
            kills += 1
        p.wait()
        if db.exists() and db.stat().st_size:
            assert_clean(db)
        if p.returncode == 0:  # came to its end, after kills or without: the same bits
            assert fingerprint(db) == expected
            finished += 1
            db = tmp_path / f"{finished}.db"
        elif db.exists() and db.stat().st_size:
            resumed += 1
    run(spec, "--db", db, "--batch", 3)
    assert fingerprint(db) == expected
    assert_clean(db)
    assert resumed > 10


def test_a_resumed_run_computes_only_what_is_missing(tiny_spec, tmp_path):
    spec, db = tiny_spec(), tmp_path / "r.db"
    run(spec, "--db", db)
    n = sql(db, "SELECT count(*) AS n FROM attempt")[0]["n"]
    again = run(spec, "--db", db)
    assert "0 to run" in again.stderr
    assert sql(db, "SELECT count(*) AS n FROM attempt")[0]["n"] == n
    run(spec, "--db", db, "--fresh")
    assert sql(db, "SELECT count(*) AS n FROM attempt")[0]["n"] == 2 * n


def test_a_signal_stops_cleanly(tiny_spec, tmp_path):
    spec, db = tiny_spec(tokens=400), tmp_path / "r.db"
    for sig, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        p = subprocess.Popen([KVRUN, str(spec), "--db", str(db), "--batch", "1", "--isa", "scalar", "--fresh"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, cwd=ROOT)
        time.sleep(0.4)
        p.send_signal(sig)
        _, stderr = p.communicate(timeout=60)
        assert p.returncode == code, stderr
        assert "safe to run again" in stderr
        assert_clean(db)


def test_the_sanitizer_build_gives_the_same_bits(tiny_spec, tmp_path):
    if not os.path.exists(KVRUN_ASAN):
        pytest.skip("no sanitizer build")
    spec = tiny_spec()
    run(spec, "--db", tmp_path / "a.db")
    done = run(spec, "--db", tmp_path / "b.db", binary=KVRUN_ASAN)
    assert "ERROR" not in done.stderr
    assert fingerprint(tmp_path / "a.db") == fingerprint(tmp_path / "b.db")
