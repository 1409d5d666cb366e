"""``dmaxlit analyse``."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.cli.arguments import Dtype, call, load_model, make_parser
from dmaxlit.cli.config_files import read_entries
from dmaxlit.cli.messages import closest
from dmaxlit.cli.unused_settings import first_given
from dmaxlit.errors import UserError, check_at_least, printable

if TYPE_CHECKING:
    from dmaxlit.evaluation.evaluate import DecoderSpec
    from dmaxlit.evaluation.order_report import OrderSource
    from dmaxlit.module import DMaxModule
    from dmaxlit.tasks import Example, Task

_NUM_PROMPTS = 100
_FILES = ("trace", "answers")
# The settings of an analysis of saved files; the model is needed where the tokenizer is.
_WITH_TRACE = (
    *("trace", "answers", "task", "resamples", "seed", "output", "overwrite"),
    *("model", "device", "dtype", "probe", "chat_template", "template_options"),
)


def run(command: str, args: list[str]) -> None:
    """Run an analysis, or list the analyses."""
    name, *rest = args or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {name:18}{(function.__doc__ or '').partition(chr(10))[0]}" for name, function in ANALYSES.items()]
        print(printable("\n".join(["usage: dmaxlit analyse NAME [options]", "", *lines])))
        return
    if name not in ANALYSES:
        raise UserError(f"unknown analysis {name!r}{closest(name, ANALYSES)}; known: {', '.join(ANALYSES)}")
    parser = make_parser(f"analyse {name}", ANALYSES[name], skip=_FILES)
    parser.add_argument(
        "--trace",
        action="append",
        help="File of generate --trace_file, instead of decoding; may be given several times.",
    )
    parser.add_argument(
        "--answers", action="append", help="File of generate --output with the same settings, one for each --trace."
    )
    call(parser, ANALYSES[name], rest)


def order(
    model: str | None = None,
    task: str | None = None,
    task_options: dict[str, Any] | None = None,
    decoder: str = "spd",
    decoder_options: dict[str, Any] | None = None,
    decoders: str | list[Any] | None = None,
    num_prompts: int | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat_template: str | None = None,
    template_options: dict[str, Any] | None = None,
    trace: list[str] | None = None,
    answers: list[str] | None = None,
    resamples: int = 1000,
    output: str = "runs/order",
    overwrite: bool = False,
    device: str = "auto",
    dtype: Dtype = "float32",
    probe: bool = True,
) -> None:
    """Show in which order tokens become final, and how many at a time: AFP and Kendall's tau, with 95% intervals.

    By task, by third of the answer, and by right or wrong answer; for sudoku and mini_sudoku also whether easier blanks
    are filled first. The output folder gets table.md, order.json and order.png. A model decodes the test prompts of
    tasks; or --trace and --answers name what generate has saved.

    Args:
        model: Folder, .ckpt file, hub id, or builtin:NAME. With --trace, for Sudoku only: the model of the answers,
            whose tokenizer is needed.
        task: Registered names of tasks, separated by commas, or import paths of your own. With --trace: the task of
            each file. Default: with --trace, the names of the files of answers.
        task_options: Options of the task, also as --task.difficulty hard; of several tasks, those of each under its
            name, also as --task.chain.difficulty hard.
        decoder: Registered name of the decoder, or import path of your own.
        decoder_options: Options of the decoder, also as --decoder.tau_dec 0.3.
        decoders: Several decoders instead: names, separated by commas; or a list of name, options, label, sweep,
            window, admission and admission_options, also in a .yaml file. Several values of the swept option, as a
            list, are a decoder each.
        num_prompts: Test prompts of each task. Default: 100, or all if there are fewer.
        max_new_tokens: Most tokens of an answer, EOS included. Default: the task's own.
        batch_size: Prompts decoded together.
        temperature: 0 takes the most probable tokens; above 0 tokens are sampled.
        top_p: Sample from the smallest set of tokens with that probability, above 0 and at most 1.
        seed: Seed of the samples, and of the intervals.
        chat_template: Name of one of the tokenizer's chat templates, or a .jinja file. Default: the model's own.
        template_options: Values of variables that the chat template reads, also as --template_options.enable_thinking
            false.
        trace: File of generate --trace_file, instead of decoding; may be given several times.
        answers: File of generate --output with the same settings, one for each --trace.
        resamples: Bootstrap samples of the intervals.
        output: Folder to write.
        overwrite: Replace an earlier report in the output folder.
        device: cpu, cuda, ...; auto takes an accelerator if there is one.
        dtype: Type of the weights.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
    """
    given = dict(locals())
    from dmaxlit.evaluation.order_folder import check_report_folder, write_report
    from dmaxlit.files import expanded

    check_at_least(1, num_prompts=num_prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    check_at_least(100, resamples=resamples)
    output = expanded(output)
    check_report_folder(Path(output), overwrite)
    names = _split(task)
    load = partial(
        load_model,
        device=device,
        dtype=dtype,
        probe=probe,
        chat_template=chat_template,
        template_options=template_options,
    )
    if trace or answers:
        if (other := first_given(order, given, _WITH_TRACE)) is not None:
            raise UserError(f"{other[0]}: expected none with --trace, got {other[1]!r}")
        sources = _stored(trace or [], answers or [], names, None if model is None else load(model))
        record: dict[str, Any] = {"trace": trace, "answers": answers, "task": names}
    else:
        if model is None or not names:
            raise UserError("model: expected --model and --task, or --trace and --answers, got neither pair")
        tasks, specs = _tasks(names, task_options or {}), _specs(decoder, decoder_options or {}, decoders)
        sampling = {"batch_size": batch_size, "temperature": temperature, "top_p": top_p, "seed": seed}
        examples = {name: _examples(name, built, num_prompts) for name, built in tasks.items()}
        sources = _decoded(load(model), tasks, examples, specs, max_new_tokens, sampling)
        record = {"model": model, "tasks": {name: built.options() for name, built in tasks.items()}}
        record["decoders"] = {title: spec.identity() for title, spec in specs.items()}
        record |= {"num_prompts": num_prompts, "max_new_tokens": max_new_tokens, "dtype": dtype, **sampling}
    reports = [source.report(resamples, seed) for source in sources]
    table = write_report(Path(output), reports, {**record, "resamples": resamples, "seed": seed}, overwrite)
    print(printable(table))


def _split(names: str | None) -> list[str]:
    """Return the names in a text, which commas separate."""
    parts = [name.strip() for name in (names or "").split(",")] if names else []
    if "" in parts or len(set(parts)) < len(parts):
        raise UserError(f"task: expected different names separated by commas, got {names!r}")
    return parts


def _tasks(names: Sequence[str], options: dict[str, Any]) -> "dict[str, Task]":
    """Return the tasks by their names; the options of several are under their names."""
    from dmaxlit.tasks import task

    if len(names) == 1:
        return {names[0]: task(names[0], **options)}
    for name, values in options.items():
        if name not in names or not isinstance(values, dict):
            raise UserError(
                f"task_options: expected the options of {', '.join(names)}, each under its name, got {name!r}"
            )
    return {name: task(name, **options.get(name, {})) for name in names}


def _specs(decoder: str, options: dict[str, Any], decoders: str | list[Any] | None) -> "dict[str, DecoderSpec]":
    """Return the decoders by their titles."""
    from dmaxlit.evaluation.decoder_entries import decoder_entries
    from dmaxlit.evaluation.evaluate import DecoderSpec

    if decoders is None:
        spec = DecoderSpec(decoder, options)
        return {spec.title: spec}
    if options:
        raise UserError("decoders: expected the options of each in the list, got --decoder_options too")
    entries, source = read_entries("decoders", decoders)
    return {entry.title: entry.spec for entry in decoder_entries(entries, False, source)}


def _examples(name: str, task: "Task", number: int | None) -> "list[Example]":
    """Return the test prompts of a task that are answered."""
    from dmaxlit.tasks.base import first_examples

    if not (examples := first_examples(task, "test", number, _NUM_PROMPTS, "num_prompts")):
        raise UserError(f"task: expected test prompts of {name!r}, found none")
    return examples


def _decoded(
    module: "DMaxModule",
    tasks: "dict[str, Task]",
    examples: "dict[str, list[Example]]",
    specs: "dict[str, DecoderSpec]",
    max_new_tokens: int | None,
    sampling: dict[str, Any],
) -> "Iterator[OrderSource]":
    """Yield the answers of each decoder to each task."""
    from dmaxlit.evaluation.limits import Limits
    from dmaxlit.evaluation.order_report import OrderSource
    from dmaxlit.evaluation.order_sources import decoded_orders
    from dmaxlit.tasks.sudoku import side_of

    for name, task in tasks.items():
        for title, spec in specs.items():
            settings = spec.settings(**vars(Limits.of_task(task, max_new_tokens)), **sampling)
            orders = decoded_orders(module, examples[name], settings, progress=sys.stderr.isatty())
            yield OrderSource(name, title, orders, side_of(type(task)), module.tokenizer)


def _stored(
    traces: Sequence[str], answers: Sequence[str], names: Sequence[str], module: "DMaxModule | None"
) -> "Iterator[OrderSource]":
    """Yield the answers of each pair of files."""
    from dmaxlit.evaluation.order_report import OrderSource
    from dmaxlit.evaluation.order_sources import stored_orders
    from dmaxlit.tasks import TASKS
    from dmaxlit.tasks.sudoku import side_of

    labels = names or [Path(path).stem for path in answers]
    if not len(traces) == len(answers) == len(labels):
        counts = f"{len(traces)}, {len(answers)} and {len(labels)}"
        raise UserError(f"trace: expected one of --answers, and of --task if any, for each --trace, got {counts}")
    for trace, file, label in zip(traces, answers, labels, strict=True):
        side = side_of(TASKS.get(label)) if label in TASKS else None
        if side is not None and module is None:
            message = f"{label}: the blanks are left out; --model names the model whose tokenizer they need"
            print(printable(message), file=sys.stderr)
        tokenizer = None if module is None else module.tokenizer
        yield OrderSource(label, Path(trace).name, stored_orders(trace, file), side, tokenizer)


ANALYSES: dict[str, Callable[..., None]] = {"order": order}
