"""``dmaxlit generate``."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.cli.arguments import call, load_model, make_parser, read_prompts
from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from dmaxlit.decoding import Generation

__all__ = ["generate", "run"]


def run(command: str, args: list[str]) -> None:
    """Carry out the command."""
    parser = make_parser(command, generate, skip=["prompt"])
    parser.add_argument("--prompt", action="append", help="A prompt; may be given several times.")
    call(parser, generate, args)


def generate(
    model: str,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    decoder: str = "spd",
    decoder_options: dict[str, Any] | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    output: str | None = None,
    device: str = "auto",
) -> None:
    """Answer prompts. Each answer is printed with its tokens, forwards and tokens per forward (TPF).

    Prompts come from --prompt, from a file, or from standard input, one a line.

    Args:
        model: Folder, .ckpt file, hub id, or builtin:NAME.
        prompt: A prompt; may be given several times.
        prompts: File of prompts: .jsonl rows with prompt or question, or one prompt a line; - for standard input.
        decoder: Registered name of the decoder, or import path of one of yours.
        decoder_options: Options of the decoder, also as --decoder.tau_dec 0.3.
        max_new_tokens: Budget of tokens for an answer, EOS included. Default: that of the task the model was trained
            on, or 256.
        batch_size: Prompts decoded together. It changes the speed, not the answers.
        seed: Seed of a decoder that draws random numbers.
        output: Also write the answers to this file, one JSON object a line.
        device: cpu, cuda, ...; auto takes an accelerator if there is one.
    """
    import torch

    from dmaxlit.evaluation import default_budget

    given = _prompts(prompt, prompts)
    module = load_model(model, device)
    torch.manual_seed(seed)
    started = time.perf_counter()
    answers = module.generate(
        given, decoder, max_new_tokens or default_budget(module), batch_size, **(decoder_options or {})
    )
    seconds = time.perf_counter() - started
    for answer in answers:
        print(f"> {answer.prompt}\n{answer.text}\n{_figures([answer])}{_troubles(answer)}\n")
    if len(answers) > 1:
        print(f"{len(answers)} prompts: {_figures(answers)}, {seconds:.1f} s")
    if output is not None:
        _write(Path(output), answers)


def _prompts(prompt: list[str] | None, path: str | None) -> list[str]:
    if prompt and path:
        raise UserError("prompts: expected either --prompt or --prompts, got both")
    if prompt:
        return prompt
    if path is None and sys.stdin.isatty():
        raise UserError("prompts: expected --prompt, --prompts or lines on standard input, got none")
    return read_prompts(path or "-")


def _figures(answers: "list[Generation]") -> str:
    tokens, forwards = sum(a.num_tokens for a in answers), sum(a.num_forwards for a in answers)
    return f"{tokens} tokens, {forwards} forwards, TPF {tokens / max(forwards, 1):.2f}"


def _troubles(answer: "Generation") -> str:
    unfinished = "" if answer.finished else ", cut off by the budget"
    return unfinished + (f", {answer.capped} blocks not converged" if answer.capped else "")


def _write(path: Path, answers: "list[Generation]") -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(answer.to_dict()) + "\n" for answer in answers))
    except OSError as error:
        raise UserError(f"output: cannot write {str(path)!r} ({error})") from error
