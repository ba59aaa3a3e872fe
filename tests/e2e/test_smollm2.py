"""The real model: all 32 rows that transformers computed (tests/golden/smollm2-needle.json, made by tests/oracle)."""
import json

import numpy as np
import pytest
from conftest import ROOT, fingerprint, run, sql

GOLDEN = json.loads((ROOT / "tests/golden/smollm2-needle.json").read_text())
PROMPTS = {"city:SF/NY": ("city_sf", "city_ny"), "trip:San Francisco/New York": ("trip_sf", "trip_ny")}


@pytest.fixture(scope="module")
def needle(smollm2, tmp_path_factory):
    """The shipped experiment, run once; returns the database and the outcome table as printed."""
    db = tmp_path_factory.mktemp("needle") / "needle.db"
    done = run("experiments/needle_sf_ny.yaml", "--db", db)
    return db, done.stdout


def load_safetensors(path):
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + n])
    return {k: np.frombuffer(raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]], "<f4").reshape(v["shape"])
            for k, v in header.items() if k != "__metadata__"}


def rows():
    for experiment, (own, other) in PROMPTS.items():
        names = list(GOLDEN["experiments"][experiment]["prompts"])
        for row in GOLDEN["experiments"][experiment]["conditions"]:
            name, condition = row.rsplit("/", 1)
            yield experiment, row, f"{own if name == names[0] else other}/{condition}"


def test_all_32_rows_of_transformers(needle):
    db, _ = needle
    differing = []
    assert len(list(rows())) == 32
    for experiment, row, label in rows():
        want = GOLDEN["experiments"][experiment]["conditions"][row]
        got = sql(db, f"SELECT token_id, logprob, margin FROM v_token WHERE label = '{label}' ORDER BY step")
        tokens = [r["token_id"] for r in got]
        assert len(tokens) == len(want["tokens"]) == 100
        same = next((i for i in range(100) if tokens[i] != want["tokens"][i]), 100)
        if same < 100:  # allowed only where the two best were all but equal
            differing.append((label, same, got[same]["margin"]))
            assert abs(want["margins"][same]) < 2e-3 and abs(got[same]["margin"]) < 2e-3, (label, same)
        for i in range(same):
            assert abs(got[i]["logprob"] - want["logprobs"][i]) < 2e-3, (label, i)
    print("rows that part at a near-tie:", differing)
    assert len(differing) <= 2


def test_prompts_are_tokenised_as_transformers_does(needle):
    for experiment, names in PROMPTS.items():
        for name, prompt in zip(names, GOLDEN["experiments"][experiment]["prompts"].values()):
            got = json.loads(run("tokens", "experiments/needle_sf_ny.yaml", name, "--json").stdout)
            assert got["text"] == prompt["text"]
            assert [t["id"] for t in got["tokens"]] == prompt["tokens"]


def test_difference_of_the_caches_read_back_from_the_database(needle, tmp_path):
    db, _ = needle
    for experiment, names in PROMPTS.items():
        caches = []
        for name in names:
            out = tmp_path / f"{name}.safetensors"
            run("export", "safetensors", "--db", db, "--label", f"{name}/baseline", "--moment", "prefill", "-o", out)
            caches.append(load_safetensors(out))
        want = GOLDEN["experiments"][experiment]["kv_delta"]
        for key, letter in (("keys", "k"), ("values", "v")):
            for layer, norms in enumerate(want[key]):
                got = np.sqrt(((caches[0][f"{letter}.{layer}"].astype(np.float64) - caches[1][f"{letter}.{layer}"]) ** 2).sum((0, 2)))
                np.testing.assert_allclose(got, norms, rtol=1e-3, atol=6e-5)  # the golden numbers have four decimals


def test_the_city_rows_say_what_the_front_page_says(needle):
    db, table = needle
    text = {r["label"]: r["text"] for r in sql(db, "SELECT label, text FROM v_result")}
    assert text["city_sf/baseline"].startswith(" San Francisco.") and text["city_ny/baseline"].startswith(" New York City.")
    assert text["city_sf/zero"].startswith(" New York City.") and text["city_ny/zero"].startswith(" New York City.")
    assert text["city_sf/transplant"].startswith(" New York City.") and text["city_ny/transplant"].startswith(" San Francisco.")
    for word in ("baseline", "zero", "transplant", "city_sf", "city_ny", "«San Francisco»", "«New York»"):
        assert word in table


def test_masking_and_zeroing_are_stored_as_edited(needle, tmp_path):
    db, _ = needle
    out = tmp_path / "zero.safetensors"
    run("export", "safetensors", "--db", db, "--label", "city_sf/zero", "--moment", "edited", "-o", out)
    cache = load_safetensors(out)
    assert cache["k.0"].shape == (3, 75, 64)
    for layer in range(30):
        for letter in "kv":
            norms = np.abs(cache[f"{letter}.{layer}"]).max((0, 2))
            assert norms[28] == 0 and (np.delete(norms, 28) > 0).all()


def test_same_bits_on_the_real_model(smollm2, tmp_path):
    """A few jobs of a few tokens; the full grid runs on a tiny model (test_bits.py)."""
    spec = tmp_path / "few.yaml"
    text = (ROOT / "experiments/needle_sf_ny.yaml").read_text().replace("max_tokens: 100", "max_tokens: 4")
    spec.write_text(text[:text.index("  - name: [trip_sf")] + text[text.index("conditions:"):])
    results = []
    for i, options in enumerate((["--batch", 1, "--threads", 1, "--isa", "avx2"], ["--batch", 16, "--threads", 2],
                                 ["--batch", 5, "--threads", 2, "--isa", "scalar", "--shuffle", 3])):
        if "avx2" in options and "avx2" not in open("/proc/cpuinfo").read():
            continue
        run(spec, "--db", tmp_path / f"{i}.db", *options)
        results.append(fingerprint(tmp_path / f"{i}.db"))
    assert all(r == results[0] for r in results)
