"""``dmaxlit generate``."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dmaxlit.cli.answer_figures import figures, remarks
from dmaxlit.cli.arguments import Dtype, call, decode_settings, load_model, make_parser
from dmaxlit.cli.processes import launch_ranks, may_be_several
from dmaxlit.errors import UserError, check_at_least, printable

if TYPE_CHECKING:
    from dmaxlit.data.encoding import Prompt
    from dmaxlit.data.prompt_reader import PromptRow
    from dmaxlit.engine import DecodeSettings, Generation, Trace
    from dmaxlit.module import DMaxModule
    from dmaxlit.tasks import Example, Task

_NUM_TASK_PROMPTS = 100


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    parser = make_parser(command, generate, skip=["prompt", "stop", "trace"])
    parser.add_argument("--prompt", action="append", help="A prompt; may be given several times.")
    parser.add_argument(
        "--stop",
        action="append",
        help="A text that ends an answer; may be given several times. Default: those of --task.",
    )
    parser.add_argument(
        "--trace",
        nargs="?",
        type=bool | str,
        const=True,
        default=False,
        metavar="FILE.html",
        help="Show each answer forward by forward, in the terminal; or write a page for a browser to FILE.html.",
    )
    call(parser, generate, args)


def generate(
    model: str,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    columns: dict[str, str] | None = None,
    task: str | None = None,
    task_options: dict[str, Any] | None = None,
    num_prompts: int | None = None,
    decoder: str | None = None,
    decoder_options: dict[str, Any] | None = None,
    window: int = 1,
    admission: str = "progress",
    admission_options: dict[str, Any] | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: list[str] | None = None,
    chat_template: str | None = None,
    template_options: dict[str, Any] | None = None,
    output: str | None = None,
    overwrite: bool = False,
    trace: bool | str = False,
    trace_file: str | None = None,
    compile: bool = False,
    check_decoder: bool = True,
    device: str = "auto",
    accelerator: str = "auto",
    devices: int | str | list[int] = 1,
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp"] = "auto",
    dtype: Dtype = "float32",
    probe: bool = True,
) -> None:
    """Answer prompts. Each answer is printed, once finished, with its tokens, forwards and tokens per forward (TPF).

    Prompts come from --prompt, from a file, from the test prompts of a task, or from standard input, one a line. With
    --output answers are written to a file instead of printed; after an interruption, the same command resumes it.

    Args:
        model: Folder, .ckpt file, hub id, or builtin:NAME.
        prompt: A prompt; may be given several times.
        prompts: File of prompts: .jsonl rows with prompt, question or messages, or one prompt a line; - for standard
            input.
        columns: Columns of --prompts that have other names there, also as --columns.prompt NAME: prompt, messages,
            conversations, instruction, input, history, system, tools.
        task: Registered name of a task whose test prompts are answered, and the answers judged.
        task_options: Options of the task, also as --task.difficulty hard.
        num_prompts: Prompts to answer. Default: 100 of a task, or all if it has fewer; all others.
        decoder: Registered name of the decoder, or import path of your own. Default: the one that the model was judged
            with, with its options, or spd.
        decoder_options: Options of the decoder, also as --decoder.tau_dec 0.3.
        window: Most blocks of a prompt that are open at once.
        admission: Registered name of the policy that says when a window takes in the next block, or import path of your
            own.
        admission_options: Options of the policy, also as --admission.theta 0.8.
        max_new_tokens: Most tokens of an answer, EOS included. Default: that of --task, or of the task the model was
            trained on, or 256.
        batch_size: Prompts decoded together. It changes the speed, not the answers; in bfloat16
            a near-tie may be rounded differently in another batch.
        temperature: 0 takes the most probable tokens; above 0 tokens are sampled.
        top_p: Sample from the smallest set of tokens with that probability, above 0 and at most 1.
        seed: Seed of the samples.
        stop: A text that ends an answer; may be given several times. Default: those of --task.
        chat_template: Name of one of the tokenizer's chat templates, or a .jinja file. Default: the model's own.
        template_options: Values of variables that the chat template reads, also as --template_options.enable_thinking
            false.
        output: Write the answers to this file, one JSON object a line, with the other columns of the prompts' rows;
            settings and counts to OUTPUT.manifest.json. After an interruption, the same command resumes; once the file
            is complete, it changes nothing.
        overwrite: Replace a complete --output, which stays until the new one is complete, and discard answers that were
            begun with other settings.
        trace: Show each answer forward by forward, in the terminal; or write a page for a browser to FILE.html.
        trace_file: Write the record of all forwards to this file (safetensors). dmaxlit trace shows it in a browser,
            alone or beside others; dmaxlit.engine.Trace reads it. After an interruption it is there as far as it had
            come, and so is the page of --trace.
        compile: Compile the forwards (torch.compile; CUDA graphs on a GPU). Takes a while at first; same answers.
        check_decoder: Check what a decoder of your own returns in the first forwards.
        device: One device: cpu, cuda, cuda:1, ...; auto takes an accelerator if there is one.
        accelerator: Kind of the devices instead, as for fit: cpu, gpu, ...
        devices: Devices of each node, as for fit: their number, auto for all, or the index of each. Each has the whole
            model and answers its share of the prompts, with --output; the answers do not depend on their number.
        num_nodes: Nodes; start the same command on each, as for fit, with the output in a folder that they share.
        strategy: auto, or ddp, as for fit; others would divide the model.
        dtype: Type of the weights. In bfloat16 a model needs half the memory; answers may differ from float32's.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
    """
    from dmaxlit.data.lost_turns import check_roles
    from dmaxlit.data.prompt_reader import naming_rows
    from dmaxlit.engine import Trace
    from dmaxlit.evaluation.batch_generate import generate_to_file
    from dmaxlit.evaluation.limits import Limits
    from dmaxlit.files import files_of_options, require_other_files
    from dmaxlit.tasks.sources import require_outside

    _check_trace(trace, trace_file, output)
    written = {"output": output, "trace_file": trace_file, "trace": trace if isinstance(trace, str) else None}
    require_other_files(
        written,
        {
            "--prompts": [prompts],
            "--model": [model],
            "--chat_template": [chat_template],
            **files_of_options("--task", task_options),
        },
    )
    require_outside(written, {"--prompts": prompts}, "--task", task_options)
    if may_be_several(devices, num_nodes):
        _check_shareable(prompts == "-" or (not prompt and prompts is None and task is None), output)
    asked = None if task is None else _task(task, task_options)
    if asked is not None:
        limits = Limits.of_task(asked, max_new_tokens)
        max_new_tokens, stop = limits.max_new_tokens, [*limits.stop] if stop is None else stop
    inputs, rows = _prompts(prompt, prompts, columns, asked, task_options, num_prompts)
    ranks, own_device = launch_ranks(device, accelerator, devices, num_nodes, strategy)
    module = ranks.together(lambda: load_model(model, own_device, dtype, probe, chat_template, template_options))
    with naming_rows(rows):
        ranks.together(lambda: check_roles(module.tokenizer, [row.prompt for row in rows]))
    settings = ranks.together(
        lambda: decode_settings(
            module,
            decoder,
            decoder_options,
            admission_options,
            max_new_tokens,
            window=window,
            admission=admission,
            batch_size=batch_size,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop or [],
            compile=compile,
            check_decoder=check_decoder,
        )
    )
    started = time.perf_counter()
    if output is None:
        record = Trace() if trace or trace_file else None
        try:
            with naming_rows(rows):
                _print(module, inputs, settings, record, show_trace=trace is True)
        finally:  # also what was recorded before Ctrl-C
            if record is not None and record.rows and trace_file:
                record.save(trace_file)
            if record is not None and record.rows and isinstance(trace, str):
                record.to_html(trace)
        return
    with naming_rows(rows):
        extras = [row.extra for row in rows]
        counts = generate_to_file(
            module, inputs, output, settings, overwrite=overwrite, extras=extras, ranks=ranks, task=asked
        )
    ranks.end()
    if not ranks.is_main:
        return
    judged = f", {counts.correct} correct" if task is not None else ""
    spent = f"{figures(counts.tokens, counts.forwards)}, {time.perf_counter() - started:.1f} s"
    print(printable(f"{output}: {counts.prompts} answers, {counts.finished} finished{judged}; {spent}"))


def _check_shareable(reads_input: bool, output: str | None) -> None:
    """Refuse what several processes cannot do together."""
    if output is None:
        raise UserError("output: expected a file for the answers of several processes, got none")
    if reads_input:
        raise UserError("prompts: expected a file, --prompt or --task for several processes, got standard input")


def _check_trace(trace: bool | str, trace_file: str | None, output: str | None) -> None:
    from dmaxlit.files import expanded

    if output is not None and (trace or trace_file):
        name = "trace" if trace else "trace_file"
        raise UserError(f"{name}: expected no --output with it: a trace is kept in memory, a file of answers is not")
    if isinstance(trace, str) and Path(trace).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"trace: expected a file that ends in .html, got {trace!r} (--trace_file keeps the record)")
    for name, path in (("trace", trace), ("trace_file", trace_file)):
        file = Path(expanded(path)) if isinstance(path, str) else None
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise UserError(f"{name}: expected a file in a folder that exists, got {path!r}")


def _task(name: str, options: dict[str, Any] | None) -> "Task":
    from dmaxlit.tasks import task as task_by_name

    return task_by_name(name, **(options or {}))


def _prompts(
    prompt: list[str] | None,
    path: str | None,
    columns: dict[str, str] | None,
    task: "Task | None",
    task_options: dict[str, Any] | None,
    number: int | None,
) -> "tuple[list[Prompt] | list[Example], list[PromptRow]]":
    """Return the prompts, and their rows if they come from a file."""
    given = {"--prompt": prompt or None, "--prompts": path, "--task": task}
    sources = [name for name, value in given.items() if value is not None]
    if len(sources) > 1:
        raise UserError(f"prompts: expected one of --prompt, --prompts and --task, got {' and '.join(sources)}")
    check_at_least(1, num_prompts=number)
    if columns and path is None:
        raise UserError("columns: expected none without --prompts, got some")
    if task is not None:
        from dmaxlit.tasks.base import first_examples

        if not (examples := first_examples(task, "test", number, _NUM_TASK_PROMPTS, "num_prompts")):
            raise UserError("task: expected test prompts, found none")
        return examples, []
    if task_options:
        raise UserError("task_options: expected none without --task, got some")
    if path is None and not prompt and sys.stdin.isatty():
        raise UserError("prompts: expected --prompt, --prompts, --task or lines on standard input, got none")
    from dmaxlit.data.prompt_reader import read_prompts

    rows = [] if prompt else read_prompts("-" if path is None else path, columns)
    prompts: list[Prompt] = [*prompt] if prompt else [row.prompt for row in rows]
    if number is not None and number > len(prompts):
        print(f"prompts: {len(prompts)} are there, {number} were asked for; all are answered", file=sys.stderr)
    return prompts[:number], rows[:number]


def _print(
    module: "DMaxModule",
    inputs: "Sequence[Prompt] | Sequence[Example]",
    settings: "DecodeSettings",
    record: "Trace | None",
    show_trace: bool,
) -> None:
    from tqdm.auto import tqdm

    from dmaxlit.tasks import Example

    texts = [item.prompt if isinstance(item, Example) else item for item in inputs]
    waiting: dict[int, Generation] = {}
    printed: list[Generation] = []
    verdicts: list[bool] = []
    started = time.perf_counter()

    def show(index: int, answer: "Generation") -> None:
        """Print the answers up to the first that is not finished; those after it wait."""
        waiting[index] = answer
        bar.update()
        while (ready := waiting.pop(len(printed), None)) is not None:
            example = inputs[len(printed)]
            if isinstance(example, Example):
                verdicts.append(example.check(ready.text))
            rows = record.rows[len(printed)] if show_trace and record is not None else None
            printed.append(ready)
            with tqdm.external_write_mode(file=sys.stdout):  # the bar gives way
                _print_answer(module, ready, verdicts[-1] if verdicts else None, rows)

    hidden = len(texts) == 1 or not sys.stderr.isatty()
    with tqdm(total=len(texts), unit="prompt", leave=False, disable=hidden) as bar:
        module.generate_batch(texts, settings, trace=record, on_response=show)
    seconds = time.perf_counter() - started
    if len(printed) > 1:
        tokens, forwards = sum(a.num_tokens for a in printed), sum(a.num_forwards for a in printed)
        judged = f", {sum(verdicts)} right" if verdicts else ""
        print(f"{len(printed)} prompts{judged}: {figures(tokens, forwards)}, {seconds:.1f} s")


def _print_answer(module: "DMaxModule", answer: "Generation", is_right: bool | None, rows: Any) -> None:
    print(printable(f"> {_shown(answer.prompt)}"))
    if rows is not None:
        from dmaxlit.cli.trace_view import print_trace

        print_trace(rows, module.tokenizer)
    verdict = "" if is_right is None else ", right" if is_right else ", wrong"
    line = figures(answer.num_tokens, answer.num_forwards) + remarks(answer) + verdict
    print(printable(f"{answer.text}\n{line}\n"), flush=True)


def _shown(prompt: "Prompt") -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n> ".join(f"{turn['role']}: {turn.get('content', '')}" for turn in prompt)
