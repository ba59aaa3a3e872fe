"""Backends other than the CPU: choosing one, and what is left when it fails. The GPU is tests/plugin/fake_cuda.c, which computes
the CPU's bits in memory that the program cannot read, and fails on demand."""
import json
import sqlite3

import pytest
from conftest import PLUGINS, fingerprint, run, sql

FAKE = {"KVRUN_PLUGINS": str(PLUGINS / "fake")}


def statuses(db):
    con = sqlite3.connect(db)
    rows = con.execute("SELECT status, count(*) FROM attempt GROUP BY status").fetchall()
    run_row = con.execute("SELECT status, exit_code FROM run ORDER BY id DESC LIMIT 1").fetchone()
    con.close()
    return dict(rows), run_row


@pytest.fixture
def small(tiny_spec):
    """The tiny experiment with one layer to swap: 30 jobs or so."""
    spec = tiny_spec(tokens=6)
    spec.write_text(spec.read_text().replace("layer: { layers: all }", "layer: [0]"))
    return spec


@pytest.fixture
def wanted(small, tmp_path):
    run(small, "--db", tmp_path / "cpu.db", "--quiet")
    return fingerprint(tmp_path / "cpu.db")


def test_what_is_missing_is_told(small, tmp_path):
    for plugin, words in (("none", "no libkvrun_cuda.so"), ("needy", "needs libcublas_of_tests.so, which is not installed"),
                          ("wrong", "is not a plug-in of kvrun")):
        done = run(small, "--db", tmp_path / "x.db", "--backend", "cuda", check=3, KVRUN_PLUGINS=str(PLUGINS / plugin))
        assert words in done.stderr
    done = run(small, "--db", tmp_path / "x.db", "--backend", "auto", KVRUN_PLUGINS=str(PLUGINS / "needy"))
    assert "computing on the CPU: libkvrun_cuda.so needs" in done.stderr
    assert "is not one of: cpu cuda cuda-emu auto" in run(small, "--backend", "metal", check=2).stderr
    assert "no device 3" in run(small, "--backend", "cuda", "--gpu", "3", check=3, **FAKE).stderr


def test_the_gpu_is_named_in_headline_and_database(small, wanted, tmp_path):
    done = run(small, "--db", tmp_path / "gpu.db", "--backend", "cuda", **FAKE)
    assert "Fake GPU (sm_90), GPU 0" in done.stderr and "n1:cuda-fake:kv-f32" in done.stderr
    assert sql(tmp_path / "gpu.db", "SELECT DISTINCT gpu_name FROM v_result") == [{"gpu_name": "Fake GPU"}]
    assert fingerprint(tmp_path / "gpu.db") == wanted
    assert sql(tmp_path / "cpu.db", "SELECT DISTINCT gpu_name FROM v_result") == [{"gpu_name": None}]


def test_a_plan_puts_nothing_on_the_gpu(small):
    done = run("plan", small, "--json", "--backend", "cuda", KVRUN_FAKE_MEMORY="10", **FAKE)
    assert json.loads(done.stdout)


def test_a_lost_device_fails_its_batch_and_leaves_what_was_stored(small, wanted, tmp_path):
    db = tmp_path / "x.db"
    done = run(small, "--db", db, "--backend", "cuda", "--batch", "4", check=3, KVRUN_FAKE_FAIL="attend:50", **FAKE)
    assert "attend: the fake device fell off the bus" in done.stderr and "computed with it" in done.stderr
    counts, last = statuses(db)
    # the batch, and those before it whose caches were still to be read
    assert 4 <= counts["failed"] <= 12 and counts["done"] >= 1 and last == ("failed", 3)
    failed = sql(db, "SELECT error_code, error_message FROM attempt WHERE status = 'failed'")
    assert {f["error_code"] for f in failed} == {3} and all("attend" in f["error_message"] for f in failed)
    run(small, "--db", db, "--backend", "cuda", **FAKE)  # only what is missing
    assert fingerprint(db) == wanted and statuses(db)[0]["done"] == len({r[0] for r in wanted[0]})


def test_caches_read_from_a_lost_device_are_never_stored(small, wanted, tmp_path):
    db = tmp_path / "x.db"
    run(small, "--db", db, "--backend", "cuda", "--batch", "4", check=3, KVRUN_FAKE_FAIL="get:400", **FAKE)
    assert statuses(db)[0]["failed"] >= 1
    run(small, "--db", db, "--backend", "cuda", **FAKE)
    assert fingerprint(db) == wanted


@pytest.mark.parametrize("rows, tries", [(3, [4, 2]), (1, [4, 2, 1])])
def test_memory_that_runs_out_halves_the_batch(small, wanted, tmp_path, rows, tries):
    db = tmp_path / "x.db"
    done = run(small, "--db", db, "--backend", "cuda", "--batch", "8", KVRUN_FAKE_ROWS=str(rows), **FAKE)
    for n in tries:
        assert f"begin: out of memory; trying {n}" in done.stderr
    assert fingerprint(db) == wanted and "failed" not in statuses(db)[0]


def test_a_job_without_memory_fails_alone(small, tmp_path):
    db = tmp_path / "x.db"
    run(small, "--db", db, "--backend", "cuda", check=1, KVRUN_FAKE_ROWS="0", **FAKE)
    counts, last = statuses(db)
    assert "done" not in counts and last == ("failed", 1)
    assert "out of memory" in sql(db, "SELECT error_message FROM attempt LIMIT 1")[0]["error_message"]


def test_pages_that_do_not_fit_halve_the_batch(small, wanted, tmp_path):
    """Between too little for the model and plenty, there is an amount with which everything is computed in small batches."""
    seen = set()
    for mib in (9, 12, 16, 24, 40):
        db = tmp_path / f"{mib}.db"
        done = run(small, "--db", db, "--backend", "cuda", "--batch", "16", check=None, KVRUN_FAKE_MEMORY=str(mib << 20), **FAKE)
        assert done.returncode in (0, 1, 3), done.stderr
        seen.add(done.returncode)
        if done.returncode == 0:
            assert fingerprint(db) == wanted
    assert 0 in seen
