"""``dmaxlit generate``."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.cli.arguments import Dtype, call, load_model, make_parser, read_prompts
from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from dmaxlit.engine import Generation
    from dmaxlit.module import DMaxModule
    from dmaxlit.tasks import Example

__all__ = ["generate", "run"]


def run(command: str, args: list[str]) -> None:
    """Carry out the command."""
    parser = make_parser(command, generate, skip=["prompt", "stop", "trace"])
    parser.add_argument("--prompt", action="append", help="A prompt; may be given several times.")
    parser.add_argument("--stop", action="append", help="A text that ends an answer; may be given several times.")
    parser.add_argument("--trace", action="store_true", help="Show each answer in the making, forward by forward.")
    call(parser, generate, args)


def generate(
    model: str,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    task: str | None = None,
    task_options: dict[str, Any] | None = None,
    num_prompts: int | None = None,
    decoder: str = "spd",
    decoder_options: dict[str, Any] | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: list[str] | None = None,
    output: str | None = None,
    overwrite: bool = False,
    trace: bool = False,
    trace_file: str | None = None,
    compile: bool = False,
    device: str = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Answer prompts. Each answer is printed with its tokens, forwards and tokens per forward (TPF).

    Prompts come from --prompt, from a file, from the test prompts of a task, or from standard input, one a line. With
    --output answers are written to a file instead of printed; killed and started again, it goes on where it was.

    Args:
        model: Folder, .ckpt file, hub id, or builtin:NAME.
        prompt: A prompt; may be given several times.
        prompts: File of prompts: .jsonl rows with prompt or question, or one prompt a line; - for standard input.
        task: Registered name of a task whose test prompts are answered, and the answers judged.
        task_options: Options of the task, also as --task.difficulty hard.
        num_prompts: Prompts to answer. Default: 100 of a task, all others.
        decoder: Registered name of the decoder, or import path of one of yours.
        decoder_options: Options of the decoder, also as --decoder.tau_dec 0.3.
        max_new_tokens: Budget of tokens for an answer, EOS included. Default: that of the task the model was trained
            on, or 256.
        batch_size: Prompts decoded together. It changes the speed, not the answers.
        temperature: 0 takes the most probable tokens; above 0 tokens are drawn.
        top_p: Draw from the smallest set of tokens of that probability, above 0 and at most 1.
        seed: Seed of the draws.
        stop: A text that ends an answer; may be given several times.
        output: Write the answers to this file, one JSON object a line. Interrupted, the same command goes on after the
            last group of four batches that was done.
        overwrite: Start --output over instead of going on with what was begun, and replace a file that is there.
        trace: Show each answer in the making, forward by forward.
        trace_file: Write the record of all forwards to this file (safetensors; dmaxlit.engine.Trace reads it).
        compile: Compile the forwards (torch.compile; CUDA graphs on a GPU). Takes a while at first; same answers.
        device: cpu, cuda, ...; auto takes an accelerator if there is one.
        dtype: Type of the weights. In bfloat16 a model needs half the memory; answers may differ from float32's.
    """
    from dmaxlit.evaluation.batch_generate import DecodeSettings
    from dmaxlit.evaluation.evaluate import default_budget

    if output is not None and (trace or trace_file):
        name = "trace" if trace else "trace_file"
        raise UserError(f"{name}: expected no --output beside it: a trace is kept in memory, a file of answers is not")
    if trace_file and (Path(trace_file).is_dir() or not Path(trace_file).absolute().parent.is_dir()):
        raise UserError(f"trace_file: expected a file in a folder that exists, got {trace_file!r}")
    given = _prompts(prompt, prompts, task, task_options, num_prompts)
    module = load_model(model, device, dtype)
    settings = DecodeSettings(
        decoder,
        decoder_options or {},
        default_budget(module) if max_new_tokens is None else max_new_tokens,
        batch_size,
        temperature,
        top_p,
        seed,
        stop or [],
        compile,
    )
    started = time.perf_counter()
    if output is None:
        _print(module, given, settings, trace, trace_file, started)
        return
    from dmaxlit.evaluation.batch_generate import generate_to_file

    done = generate_to_file(module, given, output, settings, overwrite=overwrite)
    judged = f", {done.correct} correct" if task is not None else ""
    print(
        f"{output}: {done.prompts} answers, {done.finished} finished{judged}; "
        f"{_figures(done.tokens, done.forwards)}, {time.perf_counter() - started:.1f} s"
    )


def _print(
    module: "DMaxModule",
    given: "Sequence[str] | Sequence[Example]",
    settings: Any,
    trace: bool,
    trace_file: str | None,
    started: float,
) -> None:
    from dmaxlit.engine import Trace
    from dmaxlit.evaluation.batch_generate import answer
    from dmaxlit.tasks import Example

    record = Trace() if trace or trace_file else None
    texts = [item.prompt if isinstance(item, Example) else item for item in given]
    answers = answer(module, texts, settings, trace=record)
    seconds = time.perf_counter() - started
    right = 0
    for number, (item, made) in enumerate(zip(given, answers, strict=True)):
        verdict = ""
        if isinstance(item, Example):
            correct = item.check(made.text)
            right += correct
            verdict = ", right" if correct else ", wrong"
        print(f"> {made.prompt}")
        if trace and record is not None:
            from dmaxlit.cli.trace_view import print_trace

            print_trace(record.rows[number], module.tokenizer)
        told = _figures(made.num_tokens, made.num_forwards)
        print(f"{made.text}\n{told}{_troubles(made)}{verdict}\n")
    if record is not None and trace_file:
        record.save(trace_file)
    if len(answers) > 1:
        tokens, forwards = sum(a.num_tokens for a in answers), sum(a.num_forwards for a in answers)
        judged = f", {right} right" if isinstance(given[0], Example) else ""
        print(f"{len(answers)} prompts{judged}: {_figures(tokens, forwards)}, {seconds:.1f} s")


_TASK_PROMPTS = 100


def _prompts(
    prompt: list[str] | None,
    path: str | None,
    task: str | None,
    task_options: dict[str, Any] | None,
    number: int | None,
) -> "list[str] | list[Example]":
    named = [name for name, value in (("--prompt", prompt), ("--prompts", path), ("--task", task)) if value]
    if len(named) > 1:
        raise UserError(f"prompts: expected one of --prompt, --prompts and --task, got {' and '.join(named)}")
    if number is not None and number < 1:
        raise UserError(f"num_prompts: expected at least 1, got {number}")
    if task is not None:
        from dmaxlit.tasks import task as task_by_name

        return task_by_name(task, **(task_options or {})).examples("test", number or _TASK_PROMPTS)
    if task_options:
        raise UserError("task_options: expected none without --task, got some")
    if path is None and not prompt and sys.stdin.isatty():
        raise UserError("prompts: expected --prompt, --prompts, --task or lines on standard input, got none")
    return (prompt or read_prompts(path or "-"))[:number]


def _figures(tokens: int, forwards: int) -> str:
    return f"{tokens} tokens, {forwards} forwards, TPF {tokens / max(forwards, 1):.2f}"


def _troubles(answer: "Generation") -> str:
    extra = f", {answer.num_extra_blocks} more blocks read" if answer.num_extra_blocks else ""
    unfinished = "" if answer.finished else ", cut off by the budget"
    return extra + unfinished + (f", {answer.hit_step_limit} blocks not converged" if answer.hit_step_limit else "")
