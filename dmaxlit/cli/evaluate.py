"""``dmaxlit evaluate``."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dmaxlit.cli.arguments import Dtype, call, load_model, make_parser
from dmaxlit.cli.config_files import read_entries
from dmaxlit.cli.option_help import show_option_help
from dmaxlit.cli.task_flags import options_by_task, take_task_flags
from dmaxlit.cli.unused_settings import first_given
from dmaxlit.errors import UserError, printable

if TYPE_CHECKING:
    import torch

    from dmaxlit.evaluation.autoregressive import AutoregressiveAnswerer
    from dmaxlit.module import DMaxModule


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    show_option_help(args, ["--task"])
    args, flags = take_task_flags(args)
    parser = make_parser(command, evaluate, skip=["compare", "task_flags"])
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="Compare two evaluations instead: folders, or files of answers."
    )
    call(parser, partial(evaluate, task_flags=flags), args)


def evaluate(
    model: str | None = None,
    tasks: str | list[Any] | None = None,
    output: str | None = None,
    decoders: str | list[Any] = "spd",
    task_options: dict[str, Any] | None = None,
    num_prompts: int | None = None,
    split: Literal["train", "val", "test"] = "test",
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat_template: str | None = None,
    template_options: dict[str, Any] | None = None,
    one_token: bool = True,
    autoregressive: str | None = None,
    assistant: str | None = None,
    trace: bool = False,
    compile: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    dtype: Dtype = "float32",
    probe: bool = True,
    compare: Sequence[str] | None = None,
    regrade: str | None = None,
    task_flags: Mapping[str, Any] | None = None,
) -> None:
    """Answer the prompts of tasks with every decoder, judge the answers, and record how everything was counted.

    The output folder gets table.md, record.json and, for each task, answers (.jsonl) and a curve (.csv, .json, .png,
    .svg, .pdf). After an interruption the same command resumes at the prompts that are not answered yet; once the
    folder is complete, it changes nothing and prints the table again.

    Args:
        model: Folder, .ckpt file, hub id, or builtin:NAME.
        tasks: Names of tasks, separated by commas, or import paths of your own; or a list of name, options and label,
            also in a .yaml file. Several templates, as a list, are a task each.
        output: Folder to write, new or of the same evaluation. With --compare: a .json file for its figures.
        decoders: Names of decoders, separated by commas; or a list of name, options, label, sweep, window, admission
            and admission_options, also in a .yaml file. Several values of the swept option, as a list, are a setting
            each.
        task_options: Options of tasks by their names or labels, also as --task.chain.difficulty hard.
        num_prompts: Prompts of each task, the first ones; fewer where a task has fewer. Default: all, 100 at most
            of a task that draws them.
        split: train, val or test.
        max_new_tokens: Most tokens of an answer, EOS included. Default: the task's own.
        batch_size: Prompts decoded together. It changes the speed, not the answers; in bfloat16
            a near-tie may be rounded differently in another batch.
        temperature: 0 takes the most probable tokens; above 0 tokens are sampled. The answers depend on the seed, but
            not on batch size, devices or interruptions.
        top_p: Sample from the smallest set of tokens with that probability, above 0 and at most 1.
        seed: Seed of the samples.
        chat_template: Name of one of the tokenizer's chat templates, or a .jinja file. Default: the model's own.
        template_options: Values of variables that the chat template reads, also as --template_options.enable_thinking
            false.
        one_token: Add the row of one token per forward, if it is not among the decoders.
        autoregressive: Folder or hub id of an autoregressive model, which answers the same prompts greedily.
        assistant: Folder or hub id of a smaller model with the same vocabulary, which proposes tokens to that model:
            assisted generation, one more row.
        trace: Write the record of every forward into the answers' rows. It takes time, which is measured too.
        compile: Compile the forwards (torch.compile; CUDA graphs on a GPU). Takes a while at first; same answers.
        overwrite: Remove the results of an evaluation that is complete, or has other settings.
        device: cpu, cuda, ...; auto takes an accelerator if there is one.
        devices: Devices of each node; each answers its share of the prompts.
        num_nodes: Nodes; start the same command on each, as for fit.
        dtype: Type of the weights. In bfloat16 a model needs half the memory; answers may differ from float32's.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
        compare: Compare two evaluations instead: folders, or files of answers.
        regrade: Judge the answers in the folder of an evaluation instead of decoding, with the options of tasks given
            here (--task.gsm8k.lenient true), and write them to another folder. Tasks that are not registered have to
            be named by --tasks, and another sandbox than the default one by its option.
        task_flags: Options of tasks by NAME.OPTION, which take precedence.
    """
    given = dict(locals())
    if compare is not None:
        _refuse_others("compare", given, ("output",))
        _compare(compare, output)
        return
    if regrade is not None:
        _refuse_others("regrade", given, ("output", "tasks", "task_options", "task_flags", "overwrite"))
        imports = _names(read_entries("tasks", tasks or "")[0])
        _regrade(regrade, output, imports, task_options or {}, task_flags or {}, overwrite)
        return
    model = _required("model", model)
    listed, source = read_entries("tasks", _required("tasks", tasks))
    output = _required("output", output)
    from dmaxlit.evaluation.answerers import Sampling
    from dmaxlit.evaluation.decoder_entries import decoder_entries
    from dmaxlit.evaluation.suite import Suite
    from dmaxlit.evaluation.task_entries import task_entries
    from dmaxlit.files import expanded
    from dmaxlit.ranks import Ranks

    options = options_by_task(_names(listed), task_options or {}, task_flags or {})
    settings, decoder_source = read_entries("decoders", decoders)
    suite = Suite(
        tasks=task_entries(listed, options, source),
        decoders=decoder_entries(settings, one_token, decoder_source),
        num_prompts=num_prompts,
        split=split,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        sampling=Sampling(temperature, top_p, seed),
        compile=compile,
        trace=trace,
        num_nodes=num_nodes,
    )
    if assistant is not None and autoregressive is None:
        raise UserError(f"assistant: expected --autoregressive with it, got {assistant!r} alone")
    ranks = Ranks.launch(device, devices, num_nodes)

    def load() -> "DMaxModule":
        return load_model(model, str(ranks.device), dtype, probe, chat_template, template_options)

    def load_baselines() -> "list[AutoregressiveAnswerer]":
        return _baselines(autoregressive, assistant, ranks.device, dtype)

    table = suite.run(ranks, load, model, Path(expanded(output)), overwrite, load_baselines=load_baselines)
    if ranks.is_main:
        print(printable(table), end="")
    ranks.end()


def _baselines(
    autoregressive: str | None, assistant: str | None, device: "torch.device", dtype: Dtype
) -> "list[AutoregressiveAnswerer]":
    """Load the autoregressive models; return plain greedy decoding and, with an assistant, assisted generation."""
    from dmaxlit.evaluation.autoregressive import AutoregressiveAnswerer, AutoregressiveModel

    if autoregressive is None:
        return []
    main = AutoregressiveModel.load(autoregressive, "autoregressive", device, dtype)
    if assistant is None:
        return [AutoregressiveAnswerer(main)]
    return [
        AutoregressiveAnswerer(main),
        AutoregressiveAnswerer(main, AutoregressiveModel.load(assistant, "assistant", device, dtype)),
    ]


def _required(name: str, value: Any) -> Any:
    """Return a setting that has no default.

    Raises:
        UserError: If it is missing.
    """
    if not value:
        raise UserError(f"{name}: expected a value, got none (--compare A B needs none)")
    return value


def _refuse_others(name: str, given: Mapping[str, Any], used: Collection[str]) -> None:
    """Refuse settings that another way of using the command is for."""
    other = first_given(evaluate, given, {name, *used})
    if other is None:
        return
    flag, value = other
    if flag == "task_flags":
        flag, value = next((f"task.{option}", of_task) for option, of_task in value.items())
    raise UserError(f"{name}: expected no --{flag} with it, got {value!r}")


def _compare(runs: Sequence[str], output: str | None) -> None:
    """Print the comparison of two runs, and write its figures if there is a file for them."""
    from dmaxlit.data.resumable_jsonl import output_path, refusing
    from dmaxlit.evaluation.compare import compare_runs, comparison_table
    from dmaxlit.evaluation.run_folder import RECORD
    from dmaxlit.files import require_other_files, write_json

    require_other_files({"output": output}, {"those of --compare": [*runs, *(Path(run) / RECORD for run in runs)]})
    path = None if output is None else output_path(Path(output), "output")
    comparisons = compare_runs(*map(Path, runs))
    print(printable(comparison_table(comparisons)), end="")
    if path is not None:
        with refusing(path, "output"):
            write_json(path, [comparison.to_dict() for comparison in comparisons])


def _regrade(
    source: str,
    output: str | None,
    imports: Sequence[str],
    options: Mapping[str, Any],
    flags: Mapping[str, Any],
    overwrite: bool,
) -> None:
    """Judge the answers of a run again, and print the tables."""
    from dmaxlit.evaluation.regrade import GradedRun, regrade
    from dmaxlit.files import expanded

    if not output:
        raise UserError("output: expected a folder to write, got none")
    run = Path(expanded(source))
    changed = options_by_task(GradedRun.read(run).task_names, options, flags)
    print(printable(regrade(run, Path(expanded(output)), changed, imports, overwrite)), end="")


def _names(entries: Sequence[Any]) -> list[str]:
    """Return the names and labels of listed tasks; what is no task is refused later."""
    names: dict[str, None] = {}
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {"name": entry}
        given = [fields.get("label"), fields.get("name"), str(fields.get("name")).rpartition(".")[2]]
        names |= dict.fromkeys(name for name in given if isinstance(name, str))
    return list(names)
