"""An independent slow reference of the window: one prompt, no cache, one forward over the whole sequence."""

from dataclasses import dataclass, replace

import torch

from dmaxlit.backbone.soft_embedding import embed_with_soft_tokens


@dataclass
class Reference:
    token_ids: list[int]
    num_forwards: int
    finished: bool
    num_extra_blocks: int
    dropped: int
    restarted: int
    cascades: int
    widths: list[int]


def share(decided, of):
    return 1.0 if of == 0 else decided / of


def decided_share(block):
    """The share of decided positions of a block's response."""
    ours, undecided = block.editable[0].tolist(), block.masked[0].tolist()
    return share(sum(o and not m for o, m in zip(ours, undecided, strict=True)), sum(ours))


def admits(name, options, before, after):
    """The rules, written for one block in plain Python."""
    ours = after.editable[0].tolist()
    undecided = after.masked[0].tolist()
    done = decided_share(after)
    if name in ("progress", "restarting"):
        return done >= options.get("theta", 0.6)
    if name == "converging":
        return not any(undecided)
    read = [i for i, o in enumerate(ours) if o and not before.masked[0, i]]
    same = [i for i in read if after.ids[0, i] == before.ids[0, i] and not undecided[i]]
    return done >= options.get("tau_add", 0.1) and share(len(same), len(read)) >= options.get("tau_stable", 0.5)


def restarts(name, options, before, after):
    """Whether the blocks behind one begin anew: more than a share of what it read came back changed."""
    if name != "restarting":
        return False
    ours = [i for i, o in enumerate(after.editable[0].tolist()) if o]
    read = [i for i in ours if not before.masked[0, i]]
    changed = [i for i in read if after.masked[0, i] or after.ids[0, i] != before.ids[0, i]]
    return len(changed) > options.get("tau_restart", 0.125) * len(ours)


def reference_window(denoiser, decoder, prompt, budget, window, policy, options, max_forwards=None):
    """Decode one prompt, block by block of a window, from the rule alone."""
    length, special = denoiser.block_length, denoiser.special
    front = len(prompt) // length * length
    decided, limit = list(prompt[:front]), len(prompt) + budget
    end = -(-limit // length) * length
    result = Reference([], 0, False, 0, 0, 0, 0, [])

    def begin(start):
        tail = prompt[start:] if start < len(prompt) else []
        ids = torch.tensor([tail + [special.mask_id] * (length - len(tail))])
        return decoder.start(ids, torch.arange(length)[None] >= len(tail), special)

    blocks, front_steps = [begin(front)], 0
    while True:
        embedded = [embed_with_soft_tokens(denoiser.embed, block.ids, block.soft)[0] for block in blocks]
        prefix = denoiser.embed(torch.tensor(decided, dtype=torch.long))
        inputs = torch.cat([prefix, *embedded])[None]
        number = torch.arange(inputs.shape[1])
        allowed = (number[None] // length <= number[:, None] // length)[None]
        logits = denoiser.logits(denoiser.hidden(allowed, number[None], inputs_embeds=inputs))[0, len(decided) :]
        before = blocks
        blocks = [
            decoder.step(
                replace(
                    block,
                    converged=torch.tensor([False]),
                    progress_before=None if i == 0 else torch.tensor([decided_share(before[i - 1])]),
                ),
                logits[None, i * length : (i + 1) * length],
                special,
            )
            for i, block in enumerate(blocks)
        ]
        result.num_forwards += 1
        result.num_extra_blocks += len(blocks) - 1
        result.widths.append(len(blocks))
        front_steps += 1
        wants_more = admits(policy, options, before[-1], blocks[-1])
        upset = [restarts(policy, options, old, new) for old, new in zip(before, blocks, strict=True)]

        # Close from the front.
        closed = 0
        last = result.num_forwards == max_forwards
        while blocks:
            block = blocks[0]
            at_limit = closed == 0 and (front_steps >= decoder.max_steps(length) or last)
            if not block.converged[0] and not at_limit:
                break
            top1 = logits[closed * length : (closed + 1) * length].argmax(-1)
            decided += torch.where(block.masked[0], top1, block.ids[0]).tolist()
            blocks.pop(0)
            closed += 1
            front_steps = 0
            response = decided[len(prompt) : limit]
            if special.eos_id in response:
                cut = response.index(special.eos_id) + 1
                result.dropped += len(blocks)
                result.token_ids, result.finished = response[:cut], True
                return result
            closes_next = not upset[closed - 1] and bool(blocks) and blocks[0].converged[0]
            closes_next = closes_next and policy != "restarting" and not options.get("keeps_closed")
            if len(decided) >= limit or (last and not closes_next):
                result.token_ids = response
                result.cascades += closed > 1
                return result
            if policy == "restarting" or options.get("keeps_closed") or upset[closed - 1]:
                break
        result.cascades += closed > 1
        if not blocks:
            blocks = [begin(len(decided))]
            continue

        # An EOS closes the window behind it, and a revision restarts it, whichever comes first.
        for i, block in enumerate(blocks):
            if any(upset[: closed + i]):
                result.restarted += len(blocks) - i
                fresh = range(len(decided) + i * length, len(decided) + len(blocks) * length, length)
                blocks, wants_more = [*blocks[:i], *(begin(start) for start in fresh)], False
                break
            if ((block.ids[0] == special.eos_id) & block.editable[0]).any():
                result.dropped += len(blocks) - i - 1
                blocks, wants_more = blocks[: i + 1], False
                break
        following = len(decided) + len(blocks) * length
        held = closed if options.get("keeps_closed") else 0  # slots whose keys the next forward writes
        if wants_more and len(blocks) + held < window and following < end:
            blocks.append(begin(following))
