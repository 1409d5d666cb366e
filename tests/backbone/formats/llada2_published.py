"""A tiny LLaDA2-MoE checkpoint in its published form, and the published architecture in plain torch.

Written from the published files' names and modelling code; shares no line with what it tests.
"""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CONFIG = {
    "architectures": ["LLaDA2MoeModelLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
        "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
        "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    },
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 40,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "model_type": "llada2_moe",
    "moe_intermediate_size": 16,  # rows of whole 16 bytes also in bfloat16, as grouped products want them
    "norm_topk_prob": True,
    "num_experts_per_tok": 3,
    "norm_head": False,
    "num_attention_heads": 4,
    "num_experts": 16,
    "num_key_value_heads": 2,
    "rope_theta": 600000,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.3",
    "use_bias": False,
    "use_rmsnorm": True,
    "rms_norm_eps": 1e-06,
    "head_dim": 16,
    "num_shared_experts": 1,
    "use_cache": False,
    "use_qkv_bias": False,
    "embedding_dropout": 0.0,
    "norm_softmax": False,
    "output_dropout": 0.0,
    "vocab_size": 272,
    "rotary_dim": 8,
    "using_split_qkv_in_self_attention": False,
    "router_dtype": "fp32",
    "moe_router_enable_expert_bias": True,
    "routed_scaling_factor": 2.5,
    "n_group": 4,
    "topk_group": 2,
    "score_function": "sigmoid",
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "output_router_logits": False,
    "pad_token_id": 256,
    "partial_rotary_factor": 0.5,
    "use_sliding_window": False,
}

SPECIAL = ["<|endoftext|>", "<role>", "</role>", "<|role_end|>", "<|mask|>"]
TEMPLATE = (
    "{% for m in messages %}<role>{{ 'HUMAN' if m['role'] == 'user' else 'ASSISTANT' }}</role>{{ m['content'] }}"
    "<|role_end|>{% endfor %}{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
)


def make_tensors(config=CONFIG, seed=0, dtype=torch.bfloat16, scale=0.3):
    """Return random weights under their published names; the router's bias in float32."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    def norm(size):
        return (1 + 0.2 * torch.randn(size, generator=generator)).to(dtype)

    h, d = config["hidden_size"], config["head_dim"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    out = {"model.word_embeddings.weight": random(config["vocab_size"], h) * 3}
    for n in range(config["num_hidden_layers"]):
        at = f"model.layers.{n}"
        out[f"{at}.attention.query_key_value.weight"] = random((heads + 2 * kv) * d, h)
        out[f"{at}.attention.dense.weight"] = random(h, heads * d)
        out[f"{at}.attention.query_layernorm.weight"] = norm(d)
        out[f"{at}.attention.key_layernorm.weight"] = norm(d)
        out[f"{at}.input_layernorm.weight"] = norm(h)
        out[f"{at}.post_attention_layernorm.weight"] = norm(h)
        widths = {f"{at}.mlp": config["intermediate_size"]}
        if n >= config["first_k_dense_replace"]:
            out[f"{at}.mlp.gate.weight"] = random(config["num_experts"], h)
            out[f"{at}.mlp.gate.expert_bias"] = torch.randn(config["num_experts"], generator=generator)
            size = config["moe_intermediate_size"]
            widths = {f"{at}.mlp.experts.{j}": size for j in range(config["num_experts"])}
            widths[f"{at}.mlp.shared_experts"] = size * config["num_shared_experts"]
        for mlp, size in widths.items():
            out[f"{mlp}.gate_proj.weight"] = random(size, h)
            out[f"{mlp}.up_proj.weight"] = random(size, h)
            out[f"{mlp}.down_proj.weight"] = random(h, size)
    out["model.norm.weight"] = norm(h)
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = random(config["vocab_size"], h)
    return out


def stack_experts(tensors, config=CONFIG):
    """Return the tensors with experts stacked, as the published trainer has them."""
    out = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for n in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
        for part in ("gate_proj", "up_proj", "down_proj"):
            at = f"model.layers.{n}.mlp.experts"
            every = [tensors[f"{at}.{j}.{part}.weight"] for j in range(config["num_experts"])]
            out[f"{at}.{part}"] = torch.stack(every)
    return out


def write_published(folder, config=CONFIG, tensors=None, shards=3, tokenizer=True):
    """Write the checkpoint in shards with their index, and a tokenizer that declares no mask token."""
    folder.mkdir(parents=True)
    tensors = make_tensors(config) if tensors is None else tensors
    names = sorted(tensors)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        members = names[number::shards]  # tensors of a layer are spread over several shards
        save_file({name: tensors[name] for name in members}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(members, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "modeling_llada2_moe.py").write_text("raise RuntimeError('this is never run')\n")
    (folder / "configuration_llada2_moe.py").write_text("raise RuntimeError('this is never run')\n")
    if tokenizer:
        write_tokenizer(folder)
    return folder


def write_tokenizer(folder, special=SPECIAL, **settings):
    """Write a tokenizer with one token a byte and special tokens; no setting names the mask token."""
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    backend.save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
        "model_max_length": 2048,
        **settings,
    }
    tokenizer_config = {name: value for name, value in tokenizer_config.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))


def read_published(folder):
    """Return every tensor of a folder, and the file that holds it."""
    from safetensors.torch import load_file

    tensors, files = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            assert name not in tensors
            tensors[name], files[name] = tensor, path.name
    return tensors, files


def reference_logits(tensors, ids, allowed, config=CONFIG):
    """Compute the logits of one sequence, in float32.

    Args:
        tensors: Published names.
        ids: ``[L]``.
        allowed: ``[L, L]`` bool, who may attend to whom.
        config: Published configuration.
    """
    w = {name: tensor.float() for name, tensor in tensors.items()}
    eps = config["rms_norm_eps"]

    def rms(x, weight):
        return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    def mlp(x, at):
        gate = F.silu(x @ w[f"{at}.gate_proj.weight"].T)
        return (gate * (x @ w[f"{at}.up_proj.weight"].T)) @ w[f"{at}.down_proj.weight"].T

    x = w["model.word_embeddings.weight"][ids]
    for n in range(config["num_hidden_layers"]):
        at = f"model.layers.{n}"
        x = x + _attention(rms(x, w[f"{at}.input_layernorm.weight"]), w, f"{at}.attention", allowed, config, rms)
        y = rms(x, w[f"{at}.post_attention_layernorm.weight"])
        dense = n < config["first_k_dense_replace"]
        x = x + (mlp(y, f"{at}.mlp") if dense else _experts(y, w, f"{at}.mlp", config, mlp))
    head = "model.word_embeddings.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return rms(x, w["model.norm.weight"]) @ w[head].T


def _attention(x, w, at, allowed, config, rms):
    length, d = x.shape[0], config["head_dim"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    fused = (x @ w[f"{at}.query_key_value.weight"].T).view(length, heads + 2 * kv, d)
    query, key, value = fused[:, :heads], fused[:, heads : heads + kv], fused[:, heads + kv :]
    query, key = rms(query, w[f"{at}.query_layernorm.weight"]), rms(key, w[f"{at}.key_layernorm.weight"])
    query, key = _rotate(query, config), _rotate(key, config)
    out = []
    for head in range(heads):
        group = head // (heads // kv)
        scores = query[:, head] @ key[:, group].T / d**0.5
        scores = scores.masked_fill(~allowed, -torch.inf)
        out.append(scores.softmax(-1) @ value[:, group])
    return torch.cat(out, -1) @ w[f"{at}.dense.weight"].T


def _rotate(x, config):
    """Turn the pairs (i, i + r/2) of the first r dimensions; leave the others."""
    length, _, d = x.shape
    r = int(d * config["partial_rotary_factor"])
    out = x.clone()
    for position in range(length):
        for i in range(r // 2):
            angle = torch.tensor(position / config["rope_theta"] ** (2 * i / r))
            a, b = x[position, :, i], x[position, :, i + r // 2]
            out[position, :, i] = a * angle.cos() - b * angle.sin()
            out[position, :, i + r // 2] = b * angle.cos() + a * angle.sin()
    return out


def _experts(x, w, at, config, mlp):
    """Compute token by token: the best groups by their two best biased scores, in them the best experts."""
    groups, per_group = config["n_group"], config["num_experts"] // config["n_group"]
    out = torch.zeros_like(x)
    for t, token in enumerate(x):
        scores = torch.sigmoid(w[f"{at}.gate.weight"] @ token)
        biased = scores + w[f"{at}.gate.expert_bias"]
        of_group = [biased[g * per_group : (g + 1) * per_group].topk(2).values.sum().item() for g in range(groups)]
        best = sorted(range(groups), key=of_group.__getitem__)[-config["topk_group"] :]
        candidates = [j for j in range(config["num_experts"]) if j // per_group in best]
        chosen = sorted(candidates, key=lambda j: biased[j].item())[-config["num_experts_per_tok"] :]
        total = sum(scores[j] for j in chosen) if len(chosen) > 1 else 1.0
        for j in chosen:
            weight = scores[j] / total * config["routed_scaling_factor"]
            out[t] += weight * mlp(token, f"{at}.experts.{j}")
    return out + mlp(x, f"{at}.shared_experts")
