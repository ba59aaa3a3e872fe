"""The experiments that ship, whole, on SmolLM2: they run, their controls hold, and they find what they are there to find."""
import pytest
from conftest import ROOT, assert_clean, run, sql


@pytest.fixture
def results(smollm2, tmp_path):
    def one(name):
        db = tmp_path / f"{name}.db"
        run(ROOT / f"experiments/{name}.yaml", "--db", db, "-q")
        verdicts = {v["verdict"] for v in sql(db, "SELECT DISTINCT verdict FROM v_control")}
        assert verdicts <= {"pass", "shown"} and "pass" in verdicts
        assert_clean(db)
        return db
    return one


def values(db, metric, where="1"):
    rows = sql(db, f"SELECT label, value FROM v_metric WHERE metric='{metric}' AND {where}")
    return {r["label"]: r["value"] for r in rows}


def test_causal_trace(results):
    got = values(results("causal_trace"), "recovered")
    assert len(got) > 1800
    assert got["eiffel/clean"] == 1 and got["eiffel/corrupt"] == 0
    assert max(v for k, v in got.items() if k.startswith("eiffel/resid")) > 0.9


def test_attention_knockout(results):
    got = values(results("attention_knockout"), "own_over_other")
    assert got["city_sf/from_all"] < 0 < got["city_sf/baseline"]  # without the edges to the needle the other city comes


def test_evict_policies(results):
    got = values(results("evict_policies"), "says_own")
    assert got["city_sf/baseline"] == got["city_ny/baseline"] == 1
    assert got["city_sf/needle/policy=keep_holes"] == 0


def test_kv_quantise(results):
    got = values(results("kv_quantise"), "says_own")
    assert all(v == 1 for k, v in got.items() if "bits=8" in k)
    assert not all(v == 1 for k, v in got.items() if "bits=2" in k)


def test_ioi_heads(results):
    db = results("ioi_heads")
    got = values(db, "mary_over_john")
    assert got["mary/baseline"] > 0 > got["john/baseline"]
    assert min(values(db, "recovered", "condition='patch'").values()) < 0.9
