"""``dmaxlit distill``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dmaxlit.cli.answer_backend import server_of
from dmaxlit.cli.arguments import Dtype, call, load_model, make_parser
from dmaxlit.cli.processes import launch_ranks, may_be_several
from dmaxlit.data.distill import distill as write_corpus
from dmaxlit.data.distill_settings import NO_BUDGET, DistillSettings
from dmaxlit.data.encoding import Prompt
from dmaxlit.data.lost_turns import check_roles
from dmaxlit.data.manifest import Manifest
from dmaxlit.data.prompt_reader import naming_rows, read_prompts
from dmaxlit.errors import UserError, printable
from dmaxlit.files import files_of_options, require_other_files
from dmaxlit.tasks import Task
from dmaxlit.tasks import task as task_by_name
from dmaxlit.tasks.sources import held_out_path, require_outside
from dmaxlit.tasks.stored import task_of_checkpoint

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule


#: Reasons to drop a response that the last line names.
_COUNTED = ("refused", "too_short", "too_long", "duplicate", "near_duplicate")


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    call(make_parser(command, distill), distill, args)


def distill(
    model: str,
    output: str,
    task: str | None = None,
    task_options: dict[str, Any] | None = None,
    prompts: str | None = None,
    columns: dict[str, str] | None = None,
    num_prompts: int | None = None,
    decoder: str = "threshold",
    decoder_options: dict[str, Any] | None = None,
    keep: Literal["finished", "correct", "all"] = "finished",
    num_samples: int = 1,
    held_out: float = 0.0,
    min_length: int | None = None,
    max_length: int | None = None,
    duplicates: Literal["keep", "drop", "drop_near"] = "keep",
    similarity: float = 0.8,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
    chat_template: str | None = None,
    template_options: dict[str, Any] | None = None,
    check_decoder: bool = True,
    device: str = "auto",
    accelerator: str = "auto",
    devices: int | str | list[int] = 1,
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp"] = "auto",
    dtype: Dtype = "float32",
    probe: bool = True,
    backend: Literal["model", "openai"] = "model",
    base_url: str | None = None,
    endpoint: Literal["chat", "completions"] = "chat",
    request_options: dict[str, Any] | None = None,
    concurrency: int = 32,
    max_retries: int = 8,
    timeout: float = 600.0,
) -> None:
    """Let a model answer training prompts and keep its answers as a corpus (self-distillation, DMax section 3.1).

    After an interruption, the same command resumes, also with other devices. Next to the corpus,
    <output>.manifest.json records model hash, decoder, seed, counts and time.

    Args:
        model: Folder, .ckpt file, hub id, or builtin:NAME; with the backend openai the name of the model there.
        output: Corpus to write, a .jsonl file.
        task: Registered name of the task whose training prompts are answered. Default: the one the model was trained
            on, unless that reads files, which you have to name.
        task_options: Options of the task, also as --task.difficulty hard.
        prompts: Answer the prompts of this file instead: .jsonl rows with prompt, question or messages, or one prompt a
            line.
        columns: Columns of --prompts that have other names there, also as --columns.prompt NAME: prompt, messages,
            conversations, instruction, input, history, system, tools.
        num_prompts: Prompts to answer. Default: 2048 of a task, or all if it has fewer; all of a file.
        decoder: Registered name of the decoder, or import path of your own.
        decoder_options: Options of the decoder, also as --decoder.threshold 0.9. Default for threshold: 0.95.
        keep: finished keeps every answer that ended in EOS or a stop text of the task, right or wrong, as DMax does;
            correct the ones of these that the task's checker accepts; all also those cut off.
        num_samples: Answers to each prompt; more than one need a temperature.
        held_out: Share of the prompts, by the hash of their text, that get no answer. They are written to
            NAME.held_out.jsonl, next to the corpus NAME.jsonl.
        min_length: Fewest tokens of an answer that is kept, EOS included.
        max_length: Most tokens of an answer that is kept.
        duplicates: drop rows with the text and tools of an earlier one, but for case and white space; drop_near also
            those that share most runs of five words with an earlier one (needs the extra dedup). The manifest counts
            them.
        similarity: Share of the runs of five words from which on rows are near duplicates, from 0.1 to 0.95.
        max_new_tokens: Most tokens of an answer, EOS included; --prompts need it. Default: the task's own.
        batch_size: Prompts decoded together, or with the backend openai answers recorded together. It changes the
            speed, not the answers; in bfloat16 a near-tie may be rounded differently in another batch.
        temperature: 0 takes the most probable tokens; above 0 tokens are sampled. The answers depend on the seed, but
            not on batch size, devices or interruptions.
        top_p: Sample from the smallest set of tokens with that probability, above 0 and at most 1.
        seed: Seed of the samples.
        overwrite: Replace a complete corpus, which stays until the new one is complete, and discard answers that were
            begun with other settings.
        chat_template: Name of one of the tokenizer's chat templates, or a .jinja file. Default: the model's own. Train
            with the same: fit --data.chat_template.
        template_options: Values of variables that the chat template reads, also as --template_options.enable_thinking
            false.
        check_decoder: Check what a decoder of your own returns in the first forwards.
        device: One device: cpu, cuda, cuda:1, ...; auto takes an accelerator if there is one.
        accelerator: Kind of the devices instead, as for fit: cpu, gpu, ...
        devices: Devices of each node, as for fit: their number, auto for all, or the index of each. Each has the whole
            model and answers its share of the prompts; the answers do not depend on their number.
        num_nodes: Nodes; start the same command on each, as for fit, with the output in a folder that they share.
        strategy: auto, or ddp, as for fit; others would divide the model.
        dtype: Type of the weights. In bfloat16 a model needs half the memory; answers may differ from float32's.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
        backend: model decodes here; openai asks a server that speaks OpenAI's API, such as sglang, vLLM or dmaxlit
            serve, how many answers at a time --concurrency says. Its key is that of OPENAI_API_KEY.
        base_url: Address of the server, up to /v1.
        endpoint: chat lets it answer messages, completions continue a text.
        request_options: Further fields of its requests, such as {decoder: spd} for dmaxlit serve.
        concurrency: Requests at the same time.
        max_retries: How often a request is repeated that fails because the server is busy or out of reach.
        timeout: Seconds for an answer.
    """
    arguments = locals()
    defaults = DistillSettings()
    if decoder_options is None:
        decoder_options = defaults.decoder_options if decoder == defaults.decoder else {}
    settings = DistillSettings(
        num_prompts=num_prompts,
        decoder=decoder,
        decoder_options=decoder_options,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        keep=keep,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        check_decoder=check_decoder,
        num_samples=num_samples,
        held_out=held_out,
        min_length=min_length,
        max_length=max_length,
        duplicates=duplicates,
        similarity=similarity,
    )
    settings.check()  # before the model is loaded
    written = {"output": output, "held_out": held_out_path(Path(output)) if held_out and Path(output).name else None}
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
    if prompts is not None and task is not None:
        raise UserError("prompts: expected either a task or a file of prompts, got both")
    if prompts is not None and task_options:
        raise UserError("task_options: expected none with a file of prompts, got some")
    if prompts is None and columns:
        raise UserError("columns: expected none without a file of prompts, got some")
    if prompts == "-" and may_be_several(devices, num_nodes):
        raise UserError("prompts: expected a file or --task for several processes, got standard input")
    rows = [] if prompts is None else read_prompts(prompts, columns)
    if rows and max_new_tokens is None:
        raise UserError(NO_BUDGET)
    server = server_of(distill, arguments)
    ranks, own_device = launch_ranks(device, accelerator, devices, num_nodes, strategy)
    module = None
    if server is not None:
        ranks.from_main(server.check)
    else:
        module = ranks.together(lambda: load_model(model, own_device, dtype, probe, chat_template, template_options))
    source: Task | list[Prompt]
    if not rows:
        source = ranks.together(lambda: _task(module, model, task, task_options))
    else:
        if num_prompts is not None and num_prompts > len(rows) and ranks.is_main:
            print(f"prompts: {len(rows)} are there, {num_prompts} were asked for; all are answered", file=sys.stderr)
        rows = rows[:num_prompts]
        source = [row.prompt for row in rows]
    with naming_rows(rows):
        if module is not None:
            tokenizer = module.tokenizer
            ranks.together(lambda: check_roles(tokenizer, [row.prompt for row in rows]))
        manifest = write_corpus(server or module, source, output, settings, overwrite=overwrite, ranks=ranks)
    ranks.end()
    if ranks.is_main:
        print(printable(f"{output}: {_summary(manifest)}"))


def _summary(manifest: Manifest) -> str:
    judged = "" if manifest.correct is None else f", {manifest.correct} of these correct"
    parts = [f"kept {manifest.kept} of {manifest.prompts} answers; {manifest.finished} finished{judged}"]
    repeated = {reason: manifest.dropped.get(reason) for reason in _COUNTED}
    parts += [f"{count} {reason.replace('_', ' ')}" for reason, count in repeated.items() if count]
    parts += [f"{manifest.held_out} prompts held out"] if manifest.held_out else []
    parts += [] if manifest.tpf is None else [f"TPF {manifest.tpf:.2f}"]
    return "; ".join([*parts, f"{manifest.seconds:.0f} s"])


def _task(module: "DMaxModule | None", model: str, name: str | None, options: dict[str, Any] | None) -> Task:
    """Return the task of that name, or the one the model was trained on, with options that override its own."""
    if name is not None:
        return task_by_name(name, **(options or {}))
    if module is None:
        raise UserError("task: expected a task or a file of prompts for the backend openai, got neither")
    if module.task_name is None:
        raise UserError(f"task: expected a task or a file of prompts; {model!r} does not say what it was trained on")
    return task_of_checkpoint(module.task_name, {**module.task_options, **(options or {})})
