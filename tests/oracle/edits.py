#!/usr/bin/env python3
"""Remakes tests/golden/edits: what transformers computes with tiny models under every operation, moment and tensor.

    python3 -m venv v && v/bin/pip install torch transformers safetensors
    v/bin/python tests/oracle/edits.py tests/golden/edits tests/golden/tiny/{gpt2,llama,gemma3} [--seed N]

A model is a folder as tests/oracle/tiny.py makes them. Without --seed the prompt, the donor and the edited positions are those
of its expected.json; with one they are made up, and so are the numbers of noises and vectors. tests/unit/test_edits.c runs the
engine against all files of tests/golden/edits and of $KVRUN_EDITS; their models are looked for in tests/golden/tiny and in
$KVRUN_ORACLE.

The model is the plain one of transformers, in f32 with eager attention. What happens in a pass is done by hooks on its modules,
keys and values are changed on their way into the cache, and tokens or edges are hidden by adding -inf to the scores; a query
that sees nothing gets zeros. Moments:

finished    the cache of all but the last prompt token is edited, then that token is fed
prefill     made while the whole prompt is fed
every_step  made while new tokens are fed, at their own positions
steps       the cache is edited before new tokens number first..last are fed

A condition holds its edit, the greedy tokens, their log-probabilities, and how far the second best one is; without `layers` and
`heads` the edit is of all, without `at` of the file's `at`. `sums` are, for each layer of the cache in the end, the elements of
K and V with signs that a hash gives, added up and divided by the square root of their number; `logits` the first ones, of some
conditions.
"""

import argparse
import copy
import json
import math
import os
import struct
import sys

import torch
import transformers as T

torch.set_num_threads(1)
N = 6
SITES = dict(k=1, v=2, k_pre=4, resid=8, embed=8, attn_out=16, mlp_out=32, head_out=64)

# ---- numbers that any program can repeat (engine/edit_noise.c) ----

WORD = (1 << 64) - 1
MIDDLE = [[3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
           4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3],
          [1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
           3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3]]
TAIL = [[1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
         1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4],
        [1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
         1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9]]
FAR = [[6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
        2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7],
       [1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
        1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15]]


def mix(h):
    h = (h + 0x9E3779B97F4A7C15) & WORD
    h = ((h ^ h >> 30) * 0xBF58476D1CE4E5B9) & WORD
    h = ((h ^ h >> 27) * 0x94D049BB133111EB) & WORD
    return h ^ h >> 31


def logarithm(x):
    m, e = math.frexp(x)
    m, e = 2 * m, e - 1
    if m > float.fromhex("0x1.6a09e667f3bcdp+0"):
        m, e = m * 0.5, e + 1
    f = (m - 1) / (m + 1)
    z, total = f * f, 0.0
    for k in range(23, 2, -2):
        total = (total + 1.0 / k) * z
    return e * float.fromhex("0x1.62e42fee00000p-1") + (2 * f + (2 * f * total + e * float.fromhex("0x1.a39ef35793c76p-33")))


def polynomial(a, r):
    total = a[7]
    for c in a[6::-1]:
        total = total * r + c
    return total


def normal(seed, site, layer, pos, element):
    h = mix(seed)
    for x in (site, layer, pos, element):
        h = mix(h ^ (x & WORD))
    u = ((h >> 12) + 0.5) * 2.0**-52
    q = u - 0.5
    if -0.425 <= q <= 0.425:
        r = 0.180625 - q * q
        return q * polynomial(MIDDLE[0], r) / polynomial(MIDDLE[1], r)
    r = math.sqrt(-logarithm(u if q < 0 else 1 - u))
    x = polynomial(TAIL[0], r - 1.6) / polynomial(TAIL[1], r - 1.6) if r <= 5 else polynomial(FAR[0], r - 5) / polynomial(FAR[1], r - 5)
    return -x if q < 0 else x


def vector(site, layer, width):
    """What `add` adds and `mean` puts: made up, but known to the test."""
    return torch.tensor([normal(77, SITES[site], layer, 0, e) for e in range(width)], dtype=torch.float64).float()


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


# ---- the model ----


class Watched(T.DynamicCache):
    """Hands new keys and values over before they are stored and attended to."""

    change = None

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if self.change:
            self.change("k", layer_idx, key_states)
            self.change("v", layer_idx, value_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


PLAIN = {}  # attention as each file of transformers has it, before Model wraps it


class Model:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as f:
            c = json.load(f)
        if c.get("rope_scaling"):  # as transformers 4 wrote it, which 5 does not read in all models
            c["rope_scaling"].setdefault("rope_type", c["rope_scaling"].get("type"))
        config = T.CONFIG_MAPPING[c["model_type"]].from_dict(c)
        self.net = T.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32,
                                                          attn_implementation="eager").eval()
        base, c = self.net.base_model, self.net.config
        self.gpt2 = hasattr(base, "h")
        self.blocks = list(base.h if self.gpt2 else base.layers)
        self.L, self.D, self.H, self.V = len(self.blocks), c.hidden_size, c.num_attention_heads, c.vocab_size
        self.G = getattr(c, "num_key_value_heads", None) or self.H
        self.E = getattr(c, "head_dim", None) or self.D // self.H
        self.rotary = getattr(base, "rotary_emb", None)
        self.state = None  # of the run in progress
        self.hook()

    def heads(self, site):
        return {"k": self.G, "v": self.G, "k_pre": self.G, "kv": self.G, "head_out": self.H}.get(site, 1)

    def at(self, site, layer, x):
        """Edits x, anything that reshapes to (T, width)."""
        if self.state:
            self.state.site(site, layer, x)

    def hook(self):
        def out_of(site, layer):
            def f(module, args, out):
                self.at(site, layer, (out[0] if isinstance(out, tuple) else out)[0])

            return f

        def into(site, layer):
            def f(module, args, kwargs):
                self.at(site, layer, (args[0] if args else kwargs["hidden_states"])[0])

            return f

        def keys_of(layer):
            def f(module, args, out):  # of c_attn: (1, T, 3 D)
                self.at("k_pre", layer, out[0, :, self.D:2 * self.D])

            return f

        def normed(layer):
            def f(module, args, out):  # (1, G, T, E) or (1, T, G, E)
                x = out[0]
                self.at("k_pre", layer, x.transpose(0, 1) if x.shape[0] == self.G and x.shape[1] != self.G else x)

            return f

        self.blocks[0].register_forward_pre_hook(into("embed", -1), with_kwargs=True)
        for i, b in enumerate(self.blocks):
            attn = b.attn if self.gpt2 else b.self_attn
            after_attn = getattr(b, "post_attention_layernorm", None) if hasattr(b, "pre_feedforward_layernorm") else None
            b.register_forward_hook(out_of("resid", i))
            (after_attn or attn).register_forward_hook(out_of("attn_out", i))
            getattr(b, "post_feedforward_layernorm", b.mlp).register_forward_hook(out_of("mlp_out", i))
            (attn.c_proj if self.gpt2 else attn.o_proj).register_forward_pre_hook(into("head_out", i), with_kwargs=True)
            if self.gpt2:
                attn.c_attn.register_forward_hook(keys_of(i))
            elif hasattr(attn, "k_norm"):
                attn.k_norm.register_forward_hook(normed(i))
            else:
                attn.k_proj.register_forward_hook(out_of("k_pre", i))
        source = sys.modules[type(self.net).__module__]
        plain = PLAIN.setdefault(source.__name__, source.eager_attention_forward)

        def attention(module, query, key, value, attention_mask, **more):
            hidden = self.state.hidden_scores(module.layer_idx, query.shape[2], key.shape[2])  # (H, q, k)
            if attention_mask is None:
                q, k = query.shape[2], key.shape[2]
                attention_mask = torch.full((1, 1, q, k), -torch.inf).triu(k - q + 1)
            mask = attention_mask + hidden[None]
            out, weights = plain(module, query, key, value, mask, **more)
            nothing = (mask[0] < -1e30).all(-1)  # (H or 1, q)
            return out.masked_fill(nothing.expand(self.H, -1).T[None, :, :, None], 0), weights

        source.eager_attention_forward = attention

    def turn(self, layer, delta, x):
        """Keys (..., E) turned by delta positions."""
        like = torch.zeros(1, 1, self.E)
        at = torch.tensor([[delta]])
        types = getattr(self.net.config, "layer_types", None)
        try:
            cos, sin = self.rotary(like, at, types[layer])
        except (TypeError, IndexError):
            cos, sin = self.rotary(like, at)
        cos, sin = cos[0, 0], sin[0, 0]
        half = cos.shape[0] // 2
        part = x[..., :2 * half]
        turned = part * cos + torch.cat((-part[..., half:], part[..., :half]), -1) * sin
        return torch.cat((turned, x[..., 2 * half:]), -1)


# ---- one run ----


class Run:
    """The state of a run: its cache, what is hidden in it, and the edits of the pass in progress."""

    def __init__(self, model, donor=None):
        self.m, self.donor = model, donor
        self.cache = Watched()
        self.cache.change = self.site_kv
        self.hidden = set()  # (layer, kv head, place)
        self.closed = set()
        self.edits, self.record = [], None

    # in flight

    def site_kv(self, tensor, layer, x):  # (1, G, T, E)
        self.site(tensor, layer, x[0].transpose(0, 1))

    def site(self, site, layer, x):
        if self.record is not None:
            self.record.setdefault((site, layer), {}).update({self.first + t: x[t].detach().clone() for t in range(x.shape[0])})
        for ed in self.edits:
            if ed["op"] in ("mask", "knockout") or layer not in ed["layers"]:
                continue
            if site not in (("k", "v") if ed["op"] == "evict" or ed["of"] == "kv" else (ed["of"],)):
                continue
            for i, p in enumerate(ed["at"]):
                if self.first <= p < self.first + x.shape[0]:
                    self.change(ed, site, layer, i, x[p - self.first])

    def change(self, ed, site, layer, i, row):
        """row: (width) or (heads, E) of position ed.at[i], changed in place."""
        heads, all_heads = ed.get("heads"), self.m.heads(site)
        width = row.numel()
        view = row.view(all_heads, -1)
        size = view.shape[1]
        for h in heads if all_heads > 1 or site in ("k", "v", "k_pre", "head_out") else range(1):
            x, op = view[h], ed["op"]
            part = slice(h * size, (h + 1) * size)
            if op in ("zero", "evict"):
                x.zero_()
            elif op == "scale":
                x.mul_(f32(ed["by"]))
            elif op == "add":
                x.add_(f32(ed["by"]) * vector(ed["of"], layer, width)[part])
            elif op == "mean":
                x.copy_(vector(ed["of"], layer, width)[part])
            elif op == "noise":
                z = [normal(ed["seed"], SITES[site], layer, ed["at"][i], h * size + e) for e in range(size)]
                x.add_(torch.tensor([f32(ed["sigma"]) * v for v in z], dtype=torch.float64).float())
            elif op == "quantise":
                x.copy_(quantise(x, ed["bits"]))
            elif op == "transplant":
                x.copy_(self.transplanted(ed, site, layer, i, h, part))

    def transplanted(self, ed, site, layer, i, h, part):
        frm = ed["donor_at"][i]
        if site not in ("k", "v"):
            return self.donor.record[(site, layer)][frm].reshape(-1)[part]
        source = self.donor.cache.layers[layer]
        x = (source.keys if site == "k" else source.values)[0, h, frm]
        return self.m.turn(layer, ed["at"][i] - frm, x) if ed.get("rerotate") and site == "k" else x

    def hidden_scores(self, layer, q, k):
        s = torch.zeros(self.m.H, q, k)
        per = self.m.H // self.m.G
        for l, g, p in self.hidden:
            if l == layer and p < k:
                s[g * per:(g + 1) * per, :, p] = -torch.inf
        for ed in self.edits:
            if ed["op"] == "knockout" and layer in ed["layers"]:
                rows = [t for t in range(q) if "queries" not in ed or self.first + t in ed["queries"]]
                for h in ed["heads"]:
                    for p in ed["at"]:
                        if p < k:
                            s[h, rows, p] = -torch.inf
        return s

    @torch.no_grad()
    def feed(self, ids, edits=()):
        """Logits behind the last of ids."""
        self.first = self.cache.get_seq_length()
        self.edits = list(edits)
        for ed in self.edits:
            for p in ed["at"]:
                if ed["op"] in ("mask", "evict") and self.first <= p < self.first + len(ids):
                    self.hide(ed, p)
                    if ed.get("compact"):
                        self.closed.add(p)
        places = range(self.first, self.first + len(ids))
        where = [p - sum(c < p for c in self.closed) for p in places]
        self.m.state = self
        out = self.m.net(torch.tensor([ids]), past_key_values=self.cache, use_cache=True, position_ids=torch.tensor([where]),
                         attention_mask=torch.ones(1, self.first + len(ids), dtype=torch.long))
        self.m.state = None
        return out.logits[0, -1]

    # finished

    def hide(self, ed, p):
        self.hidden |= {(l, h, p) for l in ed["layers"] for h in ed["heads"]}

    def edit(self, ed):
        if ed["op"] == "noop":
            return
        if ed["op"] in ("mask", "evict") and not ed.get("compact"):
            for p in ed["at"]:
                self.hide(ed, p)
        if ed["op"] == "mask":
            return
        if ed.get("compact"):
            return self.close_up(ed["at"])
        tensors = ("k", "v") if ed["op"] == "evict" or ed["of"] == "kv" else (ed["of"],)
        for l in ed["layers"]:
            for t in tensors:
                layer = self.cache.layers[l]
                x = (layer.keys if t == "k" else layer.values)[0]  # (G, n, E)
                if ed.get("per_channel"):
                    for h in ed["heads"]:
                        x[h, ed["at"]] = torch.stack([quantise(c, ed["bits"]) for c in x[h, ed["at"]].T]).T
                elif ed["op"] == "swap":
                    old = x.clone()
                    for h in ed["heads"]:
                        for a, b in zip(ed["at"], ed["donor_at"]):
                            turn = ed.get("rerotate") and t == "k"
                            x[h, b] = self.m.turn(l, b - a, old[h, a]) if turn else old[h, a]
                            x[h, a] = self.m.turn(l, a - b, old[h, b]) if turn else old[h, b]
                else:
                    for i, p in enumerate(ed["at"]):
                        row = x[:, p].clone()
                        self.change(ed, t, l, i, row)
                        x[:, p] = row

    def close_up(self, at):
        n = self.cache.get_seq_length()
        kept = [p for p in range(n) if p not in at]
        for l, layer in enumerate(self.cache.layers):
            layer.values = layer.values[:, :, kept].clone()
            layer.keys = torch.stack([self.m.turn(l, i - p, layer.keys[:, :, p]) for i, p in enumerate(kept)], 2)
        self.hidden = {(l, h, kept.index(p)) for l, h, p in self.hidden if p in kept}

    def sums(self):
        out = []
        for layer in self.cache.layers:
            x = torch.cat((layer.keys.reshape(-1), layer.values.reshape(-1))).double()
            signs = torch.tensor([1.0 - 2 * (mix(i) & 1) for i in range(x.numel())], dtype=torch.float64)
            out.append(float(f"{float((x * signs).sum() / math.sqrt(x.numel())):.5g}"))
        return out


def quantise(x, bits):
    least, most = x.min(), x.max()
    s = (most - least) / ((1 << bits) - 1)
    return torch.round((x - least) / s) * s + least if s > 0 else x


def condition(model, ed, prompt, finished, donor):
    when, P = ed["when"], len(prompt)
    run = Run(model, donor)
    if when == "prefill":
        logits = run.feed(prompt, [ed])
    else:
        run.cache.layers = copy.deepcopy(finished.cache.layers)
        if when == "finished":
            run.edit(ed)
        logits = run.feed(prompt[-1:])
    out = dict(tokens=[], logprobs=[], margins=[])
    first = logits
    for step in range(N):
        best = torch.log_softmax(logits, -1).topk(2)
        out["tokens"].append(int(best.indices[0]))
        out["logprobs"].append(round(float(best.values[0]), 4))
        out["margins"].append(round(float(best.values[0] - best.values[1]), 3))
        if step == N - 1:
            break
        if when == "steps" and ed["first"] <= step <= ed["last"]:
            run.edit(ed)
        logits = run.feed(out["tokens"][-1:], [ed] if when == "every_step" else [])
    out["sums"] = run.sums()
    assert math.isfinite(sum(out["logprobs"])), ed
    return out, first


# ---- the conditions ----

FINISHED = [(op, of) for op in ("zero", "scale", "noise", "transplant", "swap", "quantise", "channel", "rerotate", "reswap")
            for of in ("k", "v", "kv")] + [(op, of) for op in ("mean", "add") for of in ("k", "v")] + [
                ("noop", "kv"), ("mask", ""), ("evict", ""), ("compact", "")]
IN_FLIGHT = [(op, of) for op in ("zero", "scale", "mean", "noise", "add", "quantise", "noop")
             for of in ("k", "v", "k_pre", "resid", "embed", "attn_out", "mlp_out", "head_out")] + [
                 ("zero", "kv"), ("mask", ""), ("evict", ""), ("compact", ""), ("knockout", ""), ("edges", "")]
PREFILL = IN_FLIGHT + [("transplant", of) for of in ("k", "v", "kv", "k_pre", "resid", "embed", "attn_out", "mlp_out", "head_out")] + [
    ("rerotate", "k")]
STEPS = [(op, of) for op in ("zero", "scale", "noise", "transplant", "swap", "quantise") for of in ("k", "kv")] + [
    ("mean", "v"), ("add", "v"), ("noop", "kv"), ("mask", ""), ("evict", ""), ("compact", ""), ("channel", "v")]


def conditions(model, P, at, seed):
    rotary, L, G, H = model.rotary is not None, model.L, model.G, model.H
    for when, pairs in (("finished", FINISHED), ("prefill", PREFILL), ("every_step", IN_FLIGHT), ("steps", STEPS)):
        for k, (name, of) in enumerate(pairs):
            if name in ("rerotate", "reswap") and (not rotary or of == "v"):
                continue
            if name == "compact" and not rotary and when in ("finished", "steps"):
                continue
            op = {"channel": "quantise", "rerotate": "transplant", "reswap": "swap", "compact": "evict", "edges": "knockout"}.get(name, name)
            ed = dict(op=op, of=of, when=when, layers=[list(range(L)), [1], [0, L - 1]][k % 3])
            heads = H if op == "knockout" or of == "head_out" else G if of not in ("resid", "embed", "attn_out", "mlp_out") else 0
            if of == "embed":
                ed["layers"] = [-1]
            if name == "compact":
                ed.update(layers=list(range(L)), compact=1)
            if heads:
                ed["heads"] = [list(range(heads)), [k % heads]][k // 3 % 2 and name != "compact"]
            ed["at"] = list(range(P, P + N)) if when == "every_step" and op != "knockout" else list(at)
            if when == "every_step" and name in ("mask", "evict", "compact"):
                ed["at"] = [P + 1]
            if name == "channel":
                ed.update(at=list(range(2, P - 1)), per_channel=1)
            if op == "transplant":
                moved = name == "rerotate" or (when in ("finished", "steps") and k % 2)
                ed["donor_at"] = [3, 3] if moved else list(at)
            if op == "swap":
                ed["donor_at"] = [1, P - 2]
            if name in ("rerotate", "reswap"):
                ed["rerotate"] = 1
            if name == "edges":
                ed["queries"] = [P + 1, P + 2] if when == "every_step" else [at[1], P - 2, P - 1]
            if op == "noise":
                ed.update(sigma=0.5, seed=seed + k)
            if op == "quantise":
                ed["bits"] = [2, 4, 8][k % 3]
            if op in ("scale", "add"):
                ed["by"] = [2.0, -0.75][k % 2]
            if when == "steps":
                ed.update(dict(first=2, last=2) if op in ("evict", "swap") else dict(first=1, last=3))
            yield ed


def shorter(model, ed, at):
    """Without what a file leaves out."""
    ed = {k: v for k, v in ed.items() if k != "when" and v != ""}
    heads = model.H if ed["op"] == "knockout" else model.heads(ed.get("of", "k"))
    if ed["layers"] == list(range(model.L)):
        del ed["layers"]
    if ed.get("heads") == list(range(heads)):
        del ed["heads"]
    if ed["at"] == at:
        del ed["at"]
    return ed


def make(folder, out, seed):
    name = os.path.basename(os.path.normpath(folder))
    model = Model(folder)
    with open(os.path.join(folder, "expected.json")) as f:
        about = json.load(f)
    prompt, other, at = about["prompt"], about["donor"], about["positions"]
    if seed is not None:
        rng = torch.Generator().manual_seed(seed)
        P = 17
        prompt = torch.randint(3, model.V, (P,), generator=rng).tolist()
        first = P - 6 + seed % 3 if "window" in str(model.net.config) else 4 + seed % 8
        at = [first, first + 1]
        other = [3 + (t + 5) % (model.V - 3) if p in at else t for p, t in enumerate(prompt)]
    P = len(prompt)
    donor = Run(model)
    donor.record = {}
    donor.feed(other)
    finished = Run(model)
    finished.feed(prompt[:-1])
    results = {}
    for k, ed in enumerate(conditions(model, P, at, seed or 0)):
        result, logits = condition(model, ed, prompt, finished, donor)
        if seed is None and ed["op"] == "noop" and ed["when"] == "finished":
            want = about["conditions"]["none"]
            assert result["tokens"] == want["tokens"][:N], "not the model of expected.json"
            assert all(abs(a - b) < 1e-3 for a, b in zip(result["logprobs"], want["logprobs"])), "not its numbers"
        if k % 24 == 0:
            result["logits"] = [float(f"{float(x):.5g}") for x in logits]
        results.setdefault(ed["when"], []).append(dict(shorter(model, ed, at), **result))
    os.makedirs(out, exist_ok=True)

    def text(x):
        return json.dumps(x, separators=(",", ":"))

    with open(os.path.join(out, name + ".json"), "w") as f:
        head = dict(model=name, prompt=prompt, donor=other, at=at, torch=torch.__version__, transformers=T.__version__)
        groups = [text(w) + ":[\n" + ",\n".join(map(text, r)) + "]" for w, r in results.items()]
        f.write(text(head)[:-1] + ',"conditions":{\n' + ",\n".join(groups) + "}}\n")
    lines = [r for group in results.values() for r in group]
    texts = len({tuple(r["tokens"]) for r in lines})
    print(f"{name}: {len(lines)} conditions, {texts} texts", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("model", nargs="+")
    p.add_argument("--seed", type=int)
    a = p.parse_args()
    for folder in a.model:
        make(folder, a.out, a.seed)


if __name__ == "__main__":
    main()
