"""What a model is (`kvrun model`), files that are a vocabulary alone, chat templates of the spec, and what opening costs."""
import json
import os
import random
import subprocess
import sys

import pytest
from conftest import KVRUN, KVRUN_ASAN, ROOT, run, sql

SPEC = """\
kvrun: 1
experiment: few
model: {{ path: {model}{more} }}
prompts:
  - name: a
    chat: [{{ user: "Hello there" }}]
    ask: assistant
conditions: [{{ name: baseline }}]
decode: {{ max_tokens: 1 }}
"""


@pytest.fixture
def vocabulary(tiny, tmp_path):
    """The tiny model's file without its tensors: their list comes behind the metadata and begins with the embedding."""
    raw = tiny.read_bytes()
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(raw[:8] + bytes(8) + raw[16:raw.index(b"token_embd.weight") - 8])
    return path


@pytest.fixture
def spec(tmp_path):
    def write(model, more="", name="spec.yaml"):
        path = tmp_path / name
        path.write_text(SPEC.format(model=model, more=more))
        return path
    return write


# ---- kvrun model ----

def test_a_model_is_described(tiny):
    told = json.loads(run("model", tiny, "--json").stdout)
    assert told["architecture"] == "llama" and told["format"] == "gguf" and told["file_bytes"] == tiny.stat().st_size
    assert (told["layers"], told["width"], told["query_heads"], told["kv_heads"], told["head_size"]) == (3, 64, 4, 2, 16)
    assert (told["ffn"], told["vocabulary"], told["context"]) == (96, 384, 512)
    assert (told["rope_base"], told["rope_scaling"]) == (10000, "none")
    assert told["kv_bytes_per_token"] == {"f32": 768, "f16": 384, "bf16": 384}
    assert told["tokenizer"]["kind"] == "bpe:smollm" and told["tokenizer"]["eos"] == 2 and 2 in told["tokenizer"]["stop"]
    assert told["chat_template"] is True and told["chat_template_error"] is None
    assert told["parameters"] == sum(w["elements"] for w in told["weights"]) == 117184
    digest = subprocess.run(["sha256sum", tiny], capture_output=True, text=True).stdout.split()[0]
    assert told["sha256"] == digest
    page = run("model", tiny).stdout
    for word in (digest, "llama", "10000", "768", "bpe:smollm", "<|im_end|>"):
        assert word in page


def test_weights_are_counted_by_type(tmp_path):
    import tiny_gguf
    path = tmp_path / "q8_0.gguf"
    tiny_gguf.write_model(str(path), type="q8_0")
    told = json.loads(run("model", path, "--json").stdout)
    assert [w["type"] for w in told["weights"]] == ["q8_0", "f32"]
    assert told["weights"][0]["bytes"] == told["weights"][0]["elements"] * 34 // 32
    assert told["weights"][1]["bytes"] == told["weights"][1]["elements"] * 4


def test_a_vocabulary_alone_is_described_as_far_as_it_goes(tiny, vocabulary):
    told, whole = (json.loads(run("model", p, "--json").stdout) for p in (vocabulary, tiny))
    assert told["weights"] == [] and told["parameters"] is None
    for same in ("architecture", "name", "layers", "width", "kv_heads", "head_size", "context", "vocabulary", "rope_base", "tokenizer"):
        assert told[same] == whole[same], same
    assert "a vocabulary alone" in run("model", vocabulary).stdout


def test_a_broken_model_is_exit_3_and_says_what_is_wrong(tiny, tmp_path):
    bad, raw = tmp_path / "bad.gguf", tiny.read_bytes()
    for content, words in ((raw[:5000], "bad.gguf"), (b"GGUF", "bad.gguf"), (b"", "bad.gguf"), (b"hello " * 100, "not a GGUF file"),
                           (raw.replace(b"llama", b"lambs"), "architecture 'lambs' is not supported"),
                           (raw.replace(b"blk.1.attn_q", b"blk.1.attn_x"), "attn_q")):
        bad.write_bytes(content)
        done = run("model", bad, check=3)
        assert words in done.stderr and done.stdout == ""
    assert "no_such" in run("model", tmp_path / "no_such.gguf", check=3).stderr
    run("model", tmp_path, check=3)
    assert "usage: kvrun model" in run("model", check=2).stderr


def test_folders_are_described(tmp_path):
    told = {}
    for folder in sorted((ROOT / "tests/golden/tiny").iterdir()):
        told[folder.name] = t = json.loads(run("model", folder, "--json").stdout)
        config = json.loads((folder / "config.json").read_text())
        assert t["format"] == "safetensors" and t["name"] == folder.name and t["tokenizer"] is None
        assert t["layers"] == (config.get("num_hidden_layers") or config["n_layer"])
        assert t["parameters"] == sum(w["elements"] for w in t["weights"]) > 0
        assert t["file_bytes"] == sum(f.stat().st_size for f in (folder / "config.json", *folder.glob("model*.safetensors")))
        assert run("model", f"{folder}/").stdout.startswith(folder.name)
    scaling = {name: told[name]["rope_scaling"] for name in ("llama", "llama-linear", "llama-3", "gemma3", "gpt2")}
    assert scaling == {"llama": "none", "llama-linear": "linear 4", "llama-3": "llama3 8", "gemma3": "linear 8", "gpt2": None}
    (tmp_path / "config.json").write_text((ROOT / "tests/golden/tiny/llama/config.json").read_text())
    assert "model.safetensors" in run("model", tmp_path, check=3).stderr


def test_no_bytes_of_a_file_break_the_description(tiny, vocabulary, tmp_path):
    binary = KVRUN_ASAN if os.path.exists(KVRUN_ASAN) else KVRUN
    rng, bad, told = random.Random(5), tmp_path / "bad.gguf", set()
    for i in range(60):
        raw = bytearray((vocabulary if i % 2 else tiny).read_bytes())
        head = raw.index(b"tokenizer.ggml.tokens") if i % 3 else len(raw)  # mostly the sizes
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(head)] = rng.choice((0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))
        bad.write_bytes(raw)
        done = run("model", bad, *(["--json"] if i % 5 else []), binary=binary, check=None)
        told.add(done.returncode)
        assert done.returncode in (0, 3) and (done.returncode == 0) == (done.stderr == ""), done.stderr
        if done.returncode == 0 and i % 5:
            json.loads(done.stdout)
    assert told == {0, 3}


# ---- a vocabulary is enough for tokens ----

def test_tokens_of_a_vocabulary_alone(tiny, vocabulary, spec):
    want, got = (run("tokens", spec(m), "a", "--json").stdout for m in (tiny, vocabulary))
    assert json.loads(got) == json.loads(want)
    for args in (("plan", spec(vocabulary)), (spec(vocabulary),)):
        assert "tensor 'token_embd.weight' is missing" in run(*args, check=3).stderr


def test_tokens_of_a_folder_know_its_digest_and_its_ids(tmp_path):
    folder = ROOT / "tests/golden/tiny/llama"
    told = json.loads(run("model", folder, "--json").stdout)
    path = tmp_path / "ids.yaml"
    for sha256, ids, code in ((told["sha256"], "1, 2, 3", 0), (told["sha256"], told["vocabulary"], 2), ("0" * 64, "1, 2, 3", 3)):
        path.write_text(f"kvrun: 1\nexperiment: ids\nmodel: {{ path: {folder}, sha256: {sha256} }}\n"
                        f"prompts: [{{ name: a, tokens: [{ids}] }}]\nconditions: [{{ name: baseline }}]\ndecode: {{ max_tokens: 1 }}\n")
        for command in ("tokens", "plan"):
            run(command, path, check=code)


# ---- the spec's own chat template ----

def prompt_text(path):
    return json.loads(run("tokens", path, "a", "--json").stdout)["text"]


def test_a_template_of_the_spec_replaces_the_model_s(tiny, spec, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "own.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} é>")
    assert prompt_text(spec(tiny)) != "[user] Hello there é>"
    path = spec(tiny, ", chat_template: t/own.jinja")
    assert prompt_text(path) == "[user] Hello there é>"
    db = tmp_path / "r.db"
    run(path, "--db", db)
    run(spec(tiny, name="plain.yaml"), "--db", db)
    assert sql(db, "SELECT count(*) AS n FROM job") == [{"n": 2}]  # other ids, another job


def test_the_date_of_the_spec_is_the_template_s_today(tiny, spec, tmp_path):
    (tmp_path / "date.jinja").write_text("{{ strftime_now('%d %b %Y, %A') }}")
    assert prompt_text(spec(tiny, ", chat_template: date.jinja")) == "26 Jul 2024, Friday"
    assert prompt_text(spec(tiny, ", chat_template: date.jinja, date: 2000-02-29")) == "29 Feb 2000, Tuesday"


def test_a_wrong_template_is_exit_2_with_its_place(tiny, spec, tmp_path):
    own = tmp_path / "own.jinja"
    path = spec(tiny, ", chat_template: own.jinja")
    column = path.read_text().splitlines()[2].index("own.jinja") + 1
    for content, words in ((b"{% for m in messages %}", "own.jinja'"), (b"", "is empty"), (b"\xff\xfe", "not a text in UTF-8"),
                           (b" " * (1 << 20), None), (b" " * ((1 << 20) + 1), "larger than 1 MiB"), (None, "No such file")):
        own.unlink(missing_ok=True)
        if content is not None:
            own.write_bytes(content)
        done = run("plan", path, check=None)
        if words is None:  # as large as it may be: a prompt of no text is another error
            assert "own.jinja" not in done.stderr
            continue
        assert done.returncode == 2 and f"{path}:3:{column}: error E219: chat_template: " in done.stderr and words in done.stderr
    own.unlink(missing_ok=True)
    os.mkfifo(own)
    assert "is not a file" in run("plan", path, check=2).stderr


def test_a_model_s_own_wrong_template_matters_to_chats_alone(tiny, spec, tmp_path):
    raw, broken = tiny.read_bytes(), tmp_path / "broken.gguf"
    assert raw.count(b"{% for") == 1
    broken.write_bytes(raw.replace(b"{% for", b"{% fro"))
    told = json.loads(run("model", broken, "--json").stdout)
    assert told["chat_template"] is False and "fro" in told["chat_template_error"]
    done = run("plan", spec(broken), check=2)
    assert "error E305" in done.stderr and "fro" in done.stderr
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}")
    run("plan", spec(broken, ", chat_template: own.jinja"))


# ---- what opening costs ----

USAGE = """import os, subprocess, sys
p = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(p.pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)"""


def usage(*args):
    """CPU seconds and peak resident bytes of one call; by a small process, since the peak counts what its parent held before exec."""
    done = subprocess.run([sys.executable, "-c", USAGE, KVRUN, *map(str, args)], capture_output=True, text=True, cwd=ROOT, check=True)
    code, seconds, peak = done.stdout.split()
    assert code == "0"
    return float(seconds), int(peak)


def test_opening_a_model_costs_little_time_and_memory(smollm2, spec, tmp_path):
    path = spec(smollm2)
    allowed = smollm2.stat().st_size + (120 << 20)
    opened = [usage("tokens", path, "a") for _ in range(5)]
    described = [usage("model", smollm2) for _ in range(5)]
    print("CPU seconds: tokens", min(o[0] for o in opened), "model", min(o[0] for o in described))
    assert min(o[0] for o in opened) < 0.3 and min(o[0] for o in described) < 0.3
    run_once = usage(path, "--db", tmp_path / "r.db", "--threads", 1)
    print("MB: tokens", max(o[1] for o in opened) >> 20, "one token", run_once[1] >> 20, "allowed", allowed >> 20)
    assert max(o[1] for o in opened + described) < allowed
    assert run_once[1] < allowed
