"""What a user meets: help, exit codes, errors, the readers of a database."""
import csv
import io
import json
import sqlite3

import pytest
from conftest import KVRUN_ASAN, ROOT, fingerprint, run, sql

COMMANDS = ("run", "plan", "tokens", "model", "sql", "show", "export", "help", "version")


def test_help_of_every_command_has_an_example():
    assert "example:" in run("--help").stdout
    for c in COMMANDS:
        assert "usage: kvrun" in run(c, "--help").stdout
        assert "example: kvrun" in run("help", c).stdout
    assert run("--version").stdout.startswith("kvrun ")
    assert json.loads(run("version", "--json").stdout)["version"]


@pytest.mark.parametrize("args, words", [
    (["--nonsense"], "unknown option '--nonsense'"),
    (["x.yaml", "--thread", "2"], "did you mean '--threads'?"),
    (["x.yaml", "--threads", "two"], "--threads: 'two' is not a whole number"),
    (["x.yaml", "--threads"], "--threads needs a value"),
    (["x.yaml", "--isa", "sse"], "--isa: 'sse' is not one of: scalar avx2 avx512"),
    (["pla", "x.yaml"], "did you mean 'plan'?"),
    (["run"], "usage: kvrun"),
    (["sql"], "give a query"),
    (["export", "safetensors", "--label", "a"], "export needs --label, --moment and -o"),
    (["no_such.yaml"], "no_such.yaml"),
])
def test_wrong_usage_is_exit_2_and_says_what(args, words):
    done = run(*args, check=2)
    assert words in done.stderr and done.stdout == ""


def test_a_bad_spec_is_exit_2_with_place_and_caret(tiny_spec):
    spec = tiny_spec()
    spec.write_text(spec.read_text().replace("layers: all, at", "layer: all, at", 1))
    done = run(spec, check=2)
    assert "did you mean 'layers'?" in done.stderr and "^~~~~" in done.stderr and "no job was run" in done.stderr
    assert f"{spec}:19:" in done.stderr or ":" in done.stderr


def test_a_missing_model_is_exit_3_and_says_how_to_get_it(tmp_path):
    done = run("experiments/needle_sf_ny.yaml", check=3, KVRUN_MODELS=str(tmp_path))
    assert "ci/fetch-model" in done.stderr


def test_a_pinned_model_that_changed_is_exit_3(tiny_spec):
    spec = tiny_spec()
    spec.write_text(spec.read_text().replace("kv: f32", "sha256: " + "0" * 64))
    assert "not the pinned one" in run(spec, check=3).stderr


def test_a_broken_model_is_exit_3(tiny_spec, tiny, tmp_path):
    spec, bad = tiny_spec(), tmp_path / "bad.gguf"
    bad.write_bytes(tiny.read_bytes()[:5000])
    spec.write_text(spec.read_text().replace(str(tiny), str(bad)))
    assert "bad.gguf" in run(spec, check=3).stderr


def test_a_database_of_someone_else_is_exit_4_and_untouched(tiny_spec, tmp_path):
    db = tmp_path / "other.db"
    con = sqlite3.connect(db)
    con.execute("CREATE TABLE t (x)")
    con.commit()
    con.close()
    before = db.read_bytes()
    assert "not a kvrun database" in run(tiny_spec(), "--db", db, check=4).stderr
    assert db.read_bytes() == before
    text = tmp_path / "text.db"
    text.write_text("hello " * 1000)
    assert run(tiny_spec(), "--db", text, check=4).stderr
    assert run("sql", "--db", text, "SELECT 1", check=4).stderr
    assert run("sql", "--db", tmp_path / "missing.db", "SELECT 1", check=4).stderr


@pytest.fixture
def done(tiny_spec, tmp_path):
    db = tmp_path / "r.db"
    run(tiny_spec(), "--db", db)
    return db


def test_json_and_csv_of_every_view_parse(done):
    for view in ("v_result", "v_token", "v_prompt_token", "v_metric", "v_control", "v_kv", "v_divergence", "v_storage"):
        rows = json.loads(run("sql", "--db", done, "--json", f"SELECT * FROM {view}").stdout)
        assert rows, view
        table = list(csv.reader(io.StringIO(run("sql", "--db", done, "--csv", f"SELECT * FROM {view}").stdout)))
        assert len(table) == len(rows) + 1 and table[0] == list(rows[0])
        assert run("sql", "--db", done, "--md", f"SELECT * FROM {view} LIMIT 3").stdout.startswith("|")


def test_sql_cannot_write(done):
    before = fingerprint(done)
    for query in ("DELETE FROM job", "DROP TABLE job", "CREATE TABLE x (y)", "PRAGMA user_version = 9", "SELECT 1; DELETE FROM job",
                  "ATTACH '/tmp/kvrun_attach.db' AS x"):
        run("sql", "--db", done, query, check=2)
    assert fingerprint(done) == before


def test_every_example_question_runs(done):
    n = 1
    while True:
        p = run("sql", "--db", done, "--example", n, "--json", check=None)
        if p.returncode == 2:
            break
        assert p.returncode == 0, p.stderr
        json.loads(p.stdout)
        n += 1
    assert n > 5


def test_show_and_export_name_what_there_is(done, tmp_path):
    page = run("show", "a/zero", "--db", done).stdout
    assert "zero" in page and "SF" in page
    assert "a/zero" in run("show", "a/zer", "--db", done, check=5).stderr
    missing = run("export", "safetensors", "--db", done, "--label", "a/zero", "--moment", "prefill", "-o", tmp_path / "x", check=5)
    assert "edited" in missing.stderr and not (tmp_path / "x").exists()


def test_a_plan_knows_what_is_answered_and_makes_no_file(tiny_spec, tmp_path):
    spec, db = tiny_spec(), tmp_path / "r.db"
    before = run("plan", spec, "--db", db).stdout
    assert not db.exists() and "reuse" not in before
    run(spec, "--db", db)
    after = run("plan", spec, "--db", db).stdout
    assert "reuse" in after and "0 prefills" in after
    run("plan", spec, "--db", ROOT / "README.md", check=4)


def test_plan_and_tokens(tiny_spec, tmp_path):
    spec = tiny_spec()
    plan = json.loads(run("plan", spec, "--json").stdout)
    assert [j["label"] for j in plan["jobs"]][:3] == ["a/baseline", "a/zero", "a/mask"]
    assert "a/swap/layer=0/tensor=kv" in {j["label"] for j in plan["jobs"]}
    assert "SF" in run("plan", spec).stdout
    tokens = json.loads(run("tokens", spec, "a", "--json").stdout)
    assert "".join(t["text"] for t in tokens["tokens"]) == tokens["text"]
    assert [t["start"] for t in tokens["tokens"]][1:] == [t["end"] for t in tokens["tokens"]][:-1]
    assert "did you mean" in run("tokens", spec, "aa", check=2).stderr


def test_metrics_are_there_for_every_job(done):
    n = sql(done, "SELECT count(*) AS n FROM v_result")[0]["n"]
    assert sql(done, "SELECT count(*) AS n FROM v_metric WHERE metric = 'says_sf'")[0]["n"] == n
    zero = sql(done, "SELECT value FROM v_metric WHERE metric = 'first_divergence' AND label = 'a/baseline'")
    assert zero in ([], [{"value": None}])


def test_a_full_disk_is_exit_6(tiny_spec):
    done = run(tiny_spec(), "--db", "/dev/full", check=None)
    assert done.returncode in (4, 6)


def test_the_sanitizer_build_reads_and_exports(tiny_spec, tmp_path):
    import os
    if not os.path.exists(KVRUN_ASAN):
        pytest.skip("no sanitizer build")
    db = tmp_path / "r.db"
    run(tiny_spec(tokens=6), "--db", db, binary=KVRUN_ASAN)
    sql(db, "SELECT * FROM v_result", binary=KVRUN_ASAN)
    run("show", "a/zero", "--db", db, binary=KVRUN_ASAN)
    run("export", "safetensors", "--db", db, "--label", "a/zero", "--moment", "edited", "-o", tmp_path / "o", binary=KVRUN_ASAN)
    run("plan", tiny_spec(), "--json", binary=KVRUN_ASAN)
    run("tokens", tiny_spec(), "a", binary=KVRUN_ASAN)


def test_a_model_without_a_tokenizer_answers_in_ids(tmp_path):
    import tiny_gguf
    model, spec = tmp_path / "bare.gguf", tmp_path / "ids.yaml"
    tiny_gguf.write_model(str(model), seed=3, tokenizer=False)
    spec.write_text(f"kvrun: 1\nexperiment: ids\nmodel: {{ path: {model} }}\nprompts: [{{ name: a, tokens: [5, 9, 200, 17] }}]\n"
                    "conditions: [{ name: baseline }]\ndecode: { max_tokens: 5, stop: none }\n")
    table = run(spec, "--db", tmp_path / "r.db").stdout
    ids = [r["token_id"] for r in sql(tmp_path / "r.db", "SELECT token_id, token FROM v_token ORDER BY step")]
    assert len(ids) == 5 and " ".join(map(str, ids)) in table
