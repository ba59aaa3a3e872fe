"""`kvrun state-size`: how large a state is, from metadata alone. The numbers themselves are tested in tests/unit/test_state.c."""
import json

import pytest
from conftest import ROOT, run

GOLDEN = ROOT / "tests/golden/state_size.json"
MODELS = ["tests/golden/tiny/" + name for name in ("llama", "gpt2", "gemma3", "qwen2-window", "mistral")] + \
         ["tests/fuzz/fuzz_state/" + name for name in ("deepseek_v3.json", "jamba.json", "falcon_h1.json", "mamba_ssm.json", "rwkv6.json",
                                                      "rwkv7.gguf")]


def test_json_of_one_model_of_each_kind():
    """Remade by: build/kvrun state-size MODELS --ctx 1,100,8192 --dtype bf16 --json >tests/golden/state_size.json"""
    told = run("state-size", *MODELS, "--ctx", "1,100,8192", "--dtype", "bf16", "--json").stdout
    assert told == GOLDEN.read_text()


def test_a_token_is_what_kvrun_model_says(tiny):
    per_token = json.loads(run("model", tiny, "--json").stdout)["kv_bytes_per_token"]
    for dtype in ("f16", "bf16", "f32"):
        [told] = json.loads(run("state-size", tiny, "--dtype", dtype, "--json").stdout)
        assert told["bytes_per_token"] == per_token[dtype]
        assert [c["tokens"] for c in told["contexts"]] == [2048, 8192, 32768]
        assert [c["bytes"] for c in told["contexts"]] == [per_token[dtype] * n for n in (2048, 8192, 32768)]
    [told] = json.loads(run("state-size", tiny, "--dtype", "int8", "--json").stdout)
    assert told["bytes_per_token"] * 2 == per_token["f16"]


def test_the_page_for_people():
    page = run("state-size", "tests/golden/tiny/gemma3", "tests/fuzz/fuzz_state/deepseek_v3.json", "--ctx", "100,200").stdout
    lines = [" ".join(line.split()) for line in page.splitlines()]
    for line in ("tests/golden/tiny/gemma3: gemma3_text, 6 layers",
                 "5 x attention: 2 kv heads x (8 + 8), the last 5 tokens", "1 x attention: 2 kv heads x (8 + 8)",
                 "a token 384 384 B", "a token, windows full 64 64 B", "100 tokens 8,000 7.81 KiB", "200 tokens * 14,400 14.06 KiB",
                 "S and z in its place 1,728 1.69 KiB, 288 a layer", "* beyond the model's context of 160",
                 "5 x mla: 10 latent + 4 rotary; written out 6 heads x (10 + 8)", "a token 140 140 B 1,080 1.05 KiB"):
        assert line in lines, page


def test_the_original_table():
    page = run("state-size", "--seed-table").stdout
    assert "commit ad3c268" in page
    assert "2.56 times too small: 200 KiB a token, not 512" in page and "rise by 192.5 KiB a token, the computed ones by 512.0" in page
    told = json.loads(run("state-size", "--seed-table", "--json").stdout)
    rows = {row["row"]: row for row in told["rows"]}
    assert len(told["rows"]) == 10 and told["dtype"] == "f16"
    for name, tokens in (("LLaMA 7B (2k)", 2048), ("LLaMA 7B (320k)", 327680)):
        assert rows[name]["computed_bytes"] == tokens * 512 * 1024  # 2 x 32 layers x 32 heads x 128 x 2 bytes
    assert rows["RWKV 7B v4 Raven"]["computed_bytes"] == 32 * 4096 * (3 * 4 + 2 * 2)
    assert rows["RWKV 7B v5 Eagle"]["computed_bytes"] == 32 * (64 * 64 * 64 * 4 + 2 * 4096 * 2)
    assert rows["RWKV 14B v6 Finch"]["computed_bytes"] == 61 * (64 * 64 * 64 * 4 + 2 * 4096 * 2)
    assert rows["RWKV / SSM scaled up, theoretical"]["computed_bytes"] is None
    assert rows["RWKV 7B v4 Raven"]["figure_bytes"] == 4 << 20


@pytest.mark.parametrize("words, code, message", [
    ([], 2, "usage: kvrun state-size MODEL"),
    (["x", "--seed-table"], 2, "--seed-table takes no MODEL"),
    (["--seed-table", "--ctx", "7"], 2, "--seed-table has contexts of its own"),
    (["x", "--ctx", "0"], 2, "--ctx '0': at '0' is no number of tokens"),
    (["x", "--ctx", "8,9999999999"], 2, "at '9999999999' is no number"),
    (["x", "--ctx", "8,,9"], 2, "at ',9' is no number"),
    (["x", "--dtype", "q4_0"], 2, "is not one of: f16 bf16 f32 int8"),
    (["no_such_file"], 3, "model 'no_such_file': cannot be opened: No such file or directory"),
    (["tests"], 3, "model 'tests': config.json: cannot be opened"),
    (["README.md"], 3, "model 'README.md': 1:1: '[' or '{' expected"),
    (["tests/golden/tiny/llama", "tests/golden/state.json"], 3, "model 'tests/golden/state.json': model_type is missing"),
])
def test_mistakes(words, code, message):
    done = run("state-size", *words, check=code)
    assert message in done.stderr and not done.stdout


def test_a_context_too_long_for_64_bits(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 4096, "hidden_size": 1 << 20,
                                  "num_attention_heads": 1 << 19, "head_dim": 1024}))
    assert "more than 2^63 bytes" in run("state-size", tmp_path, "--ctx", 1 << 30, check=3).stderr
    config.write_text(json.dumps({"model_type": "some_new_kind"}))
    assert "model_type 'some_new_kind' is not one whose state can be counted" in run("state-size", config, check=3).stderr
