"""SPD for one prompt from the paper's equations: uncached, in Python loops, on the bare transformers model.

It shares no code with ``dmaxlit.decoding``. Slow and plain on purpose.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import torch


@dataclass
class Outcome:
    token_ids: list[int]
    num_forwards: int
    finished: bool
    hit_step_limit: int
    events: Counter[str] = field(default_factory=Counter)


def block_logits(model, embeddings, block_length):
    """Compute the logits of the last block; every position attends to its block and all earlier ones."""
    length = len(embeddings)
    mask = [
        [0.0 if k // block_length <= q // block_length else -math.inf for k in range(length)] for q in range(length)
    ]
    with torch.no_grad():
        output = model(
            inputs_embeds=torch.stack(embeddings)[None],
            attention_mask=torch.tensor(mask, dtype=model.dtype)[None, None],
            position_ids=torch.arange(length)[None],
            use_cache=False,
        )
    return output.logits[0, -block_length:]


def mixture(table, candidates, mask_id):
    """Compute Eqs. 8-10: sum_k p_k E[v_k] + (1 - sum_k p_k) E[mask], at the norm that is mixed the same way."""
    rest = 1 - sum(p for _, p in candidates)
    components = [*candidates, (mask_id, rest)]
    vector = sum(p * table[token] for token, p in components)
    norm = sum(p * math.sqrt(float((table[token] ** 2).sum())) for token, p in components)
    return vector * norm / math.sqrt(float((vector**2).sum()))


def arc_mixture(table, candidates, mask_id):
    """Compute the same norm in another direction: sum_k p_k of the angle from the mask to sum_k p_k E[v_k]."""
    share, mask = sum(p for _, p in candidates), table[mask_id]
    mean = sum(p * table[token] for token, p in candidates)
    norm = sum(p * math.sqrt(float((table[token] ** 2).sum())) for token, p in [*candidates, (mask_id, 1 - share)])
    mask = mask / math.sqrt(float((mask**2).sum()))
    if not mean.any():  # the pad's embedding is zero and has no direction
        return mask * norm
    mean = mean / math.sqrt(float((mean**2).sum()))
    angle = math.acos(float((mask * mean).sum()))
    return norm * (math.sin((1 - share) * angle) * mask + math.sin(share * angle) * mean) / math.sin(angle)


def reference_spd(
    model,
    special,
    prompt,
    block_length,
    max_new_tokens,
    tau_dec=0.5,
    tau_acc=0.9,
    contiguous=True,
    soft=True,
    stop_on_consistency=True,
    stop_on_confidence=True,
    top_k=1,
    max_steps=None,
):
    table = model.get_input_embeddings().weight.detach()
    cap = 2 * block_length if max_steps is None else max_steps
    out = Outcome(list(prompt), 0, False, 0)
    prefix = list(prompt[: len(prompt) // block_length * block_length])
    while True:
        prompt_tail = list(prompt[len(prefix) : len(prefix) + block_length])
        block = prompt_tail + [None] * (block_length - len(prompt_tail))
        inputs = [table[special.mask_id if token is None else token] for token in block]
        positions = range(len(prompt_tail), block_length)
        steps = 0
        while True:
            logits = block_logits(model, [table[token] for token in prefix] + inputs, block_length)
            steps += 1
            out.num_forwards += 1
            candidates = []
            for row in logits:
                row = row.clone()
                row[special.mask_id] = -math.inf
                probability = torch.softmax(row.float(), 0) if row.dtype == torch.bfloat16 else torch.softmax(row, 0)
                best = sorted(range(len(row)), key=lambda token: -float(probability[token]))
                candidates.append([(token, float(probability[token])) for token in best[:top_k]])
            before = list(block)

            masks = [i for i in positions if block[i] is None]
            promoted = []
            for i in masks:
                if candidates[i][0][1] > tau_dec:
                    promoted.append(i)
                elif contiguous:
                    break
            if masks and masks[0] not in promoted:
                promoted.append(masks[0])
                out.events["forced"] += 1
            if 1 < len(promoted) < len(masks):
                out.events["several promoted"] += 1
            if promoted and [i for i in masks if i <= max(promoted)] != sorted(promoted):
                out.events["promoted out of order"] += 1
            for i in positions:
                if before[i] is not None or i in promoted:
                    block[i] = candidates[i][0][0]
                    out.events["revised"] += before[i] is not None and before[i] != block[i]

            complete = all(block[i] is not None for i in positions)
            consistent = stop_on_consistency and complete and all(block[i] == before[i] for i in positions)
            confident = stop_on_confidence and complete and all(candidates[i][0][1] >= tau_acc for i in positions)
            if consistent or confident:
                out.events["ended consistent only"] += consistent and not confident
                out.events["ended confident only"] += confident and not consistent
                break
            if steps == cap:
                out.hit_step_limit += 1
                out.events["masks at the cap"] += not complete
                block = [candidates[i][0][0] if token is None else token for i, token in enumerate(block)]
                break
            for i in positions:
                if block[i] is not None:
                    mix = arc_mixture if soft == "slerp" else mixture
                    inputs[i] = mix(table, candidates[i], special.mask_id) if soft else table[block[i]]

        first = len(prefix) + len(prompt_tail)
        prefix += block
        for position in range(first, len(prefix)):
            if prefix[position] == special.eos_id or position + 1 - len(prompt) == max_new_tokens:
                out.finished = prefix[position] == special.eos_id
                out.token_ids = prefix[len(prompt) : position + 1]
                out.events["eos inside a block"] += out.finished and position + 1 < len(prefix)
                return out
