"""The experiments that ship, as they ship, on SmolLM2: every control holds, the report's numbers are the database's, and what each
one is there to show is there. needle_sf_ny is in test_smollm2.py, depth_sweep in test_select.py."""
import pytest

from conftest import ROOT, assert_clean, run, sql
from test_report import every_number_is_in_its_sql

SHIPPED = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
ELSEWHERE = {"needle_sf_ny", "depth_sweep", "needle_sf_ny_llama31"}  # the last one needs a model of 8 GB


def finished(name, smollm2, folder):
    db = folder / f"{name}.db"
    done = run(f"experiments/{name}.yaml", "--db", db)
    verdicts = sql(db, "SELECT verdict, count(*) AS n FROM v_control GROUP BY verdict")
    assert verdicts and not [v for v in verdicts if v["verdict"] in ("fail", "missing")], verdicts
    assert "0 failed" in done.stderr
    assert_clean(db)
    page = folder / f"{name}.html"
    run("report", f"experiments/{name}.yaml", "--db", db, "-o", page)
    assert every_number_is_in_its_sql(db, page) > 5
    return db


def values(db, metric, where):
    return {r["label"]: r["value"] for r in sql(db, f"SELECT label, value FROM v_metric WHERE metric='{metric}' AND {where}")}


def causal_trace(db):
    """Restoring the clean residual at the subject's last token in early layers, or at the last token in late ones, brings it back."""
    for prompt in ("eiffel", "colosseum"):
        got = values(db, "recovered", f"prompt='{prompt}' AND condition='resid'")
        spans = sql(db, f"SELECT tok_end FROM prompt_span JOIN spec_prompt p ON p.id=spec_prompt_id WHERE p.name='{prompt}'")
        last = max(int(label.split("pos=")[1].split("/")[0]) for label in got)
        assert max(v for k, v in got.items() if "/layer=2" in k and f"pos={last}/" in k) > 0.8
        assert max(v for k, v in got.items() if any(f"pos={spans[0]['tok_end'] - d}/" in k for d in (1, 2))) > 0.5
        assert all(abs(v) < 1e-6 for k, v in got.items() if "pos=0/" in k)  # nothing was corrupted there


def attention_knockout(db):
    got = values(db, "own_over_other", "label IN ('city_sf/baseline', 'city_sf/from_all')")
    assert got["city_sf/baseline"] > 0 > got["city_sf/from_all"]


def kv_quantise(db):
    kl = values(db, "kl", "prompt='city_sf'")
    assert kl["city_sf/quantise/bits=8/per=token/tensor=kv"] < 1e-3 < kl["city_sf/quantise/bits=2/per=token/tensor=kv"]


def evict_policies(db):
    size = values(db, "state_size", "prompt='city_sf'")
    assert size["city_sf/recency/evict=75 %/policy=keep_holes"] < 0.5 * size["city_sf/baseline"]
    closed = sql(db, "SELECT count(*) AS n FROM v_control WHERE kind='absent' AND verdict='pass'")
    assert closed[0]["n"] > 0


def ioi_heads(db):
    base = values(db, "mary_over_john", "condition='baseline'")
    assert base["mary/baseline"] > 0 > base["john/baseline"]


def needle_long(db):
    assert sql(db, "SELECT count(*) AS n FROM v_prompt_token WHERE prompt='long_sf'")[0]["n"] == 160
    says = values(db, "says_ny", "prompt='long_sf'")
    assert says["long_sf/baseline"] == 0 and says["long_sf/transplant"] == 1


def needle_layers(db):
    assert sql(db, "SELECT count(*) AS n FROM v_result")[0]["n"] == 366


@pytest.mark.parametrize("name", sorted(SHIPPED - ELSEWHERE))
def test_a_shipped_experiment(name, smollm2, tmp_path):
    globals()[name](finished(name, smollm2, tmp_path))
