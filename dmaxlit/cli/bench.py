"""``dmaxlit bench``."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dmaxlit.cli.arguments import Dtype, call, make_parser
from dmaxlit.cli.messages import closest
from dmaxlit.cli.recipes import RECIPES
from dmaxlit.errors import UserError, printable


def run(command: str, args: list[str]) -> None:
    """Run a benchmark, or list the benchmarks."""
    name, *rest = args or ["--help"]
    if name in ("-h", "--help"):
        lines = [
            f"  {name:18}{(function.__doc__ or '').partition(chr(10))[0]}" for name, function in BENCHMARKS.items()
        ]
        print(printable("\n".join(["usage: dmaxlit bench NAME [options]", "", *lines])))
        return
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}{closest(name, BENCHMARKS)}; known: {', '.join(BENCHMARKS)}")
    call(make_parser(f"bench {name}", BENCHMARKS[name]), BENCHMARKS[name], rest)


def self_correction(
    output: str = "runs/self_correction",
    study: str = "methods",
    configs: str = str(RECIPES),
    num_bases: int = 2,
    seeds: list[int] | None = None,
    num_prompts: int = 2048,
    num_examples: int = 1000,
    workers: int = 2,
    threads: int = 1,
) -> None:
    """Train control, uniform and on-policy models on several seeds, decode them all, and print the table.

    Models and results are kept under the output folder: run it again after an interruption and it resumes. The defaults
    take about two hours on two CPU cores, half an hour of it for the second base.

    Args:
        output: Folder for models and corpora, and in a folder for each study results.json and table.md.
        study: methods; dependence: variants of on-policy training, to see what the effect depends on; strategies: ways
            of showing a model its own errors; or truth: the same with and without clean tokens among its guesses.
        configs: Folder of the recipes: pretrain_curriculum.yaml, quickstart.yaml and its siblings.
        num_bases: Base models. The first is the shipped one; the others are pretrained with their number as seed.
        seeds: Training seeds; seed s starts from base s % num_bases. Default: 0 1 2 3 4.
        num_prompts: Prompts a base distils its corpus from.
        num_examples: Test prompts decoded for each row.
        workers: Models trained and decoded at the same time.
        threads: CPU threads of each worker.
    """
    from dmaxlit.bench import SelfCorrectionBench

    bench = SelfCorrectionBench(
        Path(output),
        study,
        Path(configs),
        num_bases,
        seeds=SelfCorrectionBench.seeds if seeds is None else tuple(seeds),
        num_prompts=num_prompts,
        num_examples=num_examples,
        workers=workers,
        threads=threads,
    )
    print(printable(bench.run()))


def decoders(
    models: list[str] | None = None,
    output: str = "runs/decoders",
    num_examples: int = 256,
    batch_size: int = 64,
) -> None:
    """Decode test prompts with every decoder at several settings, and print the table.

    Finished rows are kept under the output folder: run it again after an interruption and it resumes. The figures are
    accuracy, TPF, AUP over a decoder's settings, AFP, Kendall's tau of the order, tokens per second, and the share of
    blocks that hit the step limit.

    Args:
        models: LABEL=MODEL pairs. A model is a folder, .ckpt file, hub id or builtin:NAME; models with the same label
            are averaged. Default: base=builtin:chain-base on_policy=runs/quickstart/model.
        output: Folder for results.json and table.md.
        num_examples: Test prompts of the task the models were trained on.
        batch_size: Prompts decoded together.
    """
    from dmaxlit.bench import DecoderBench

    print(printable(DecoderBench(models or DecoderBench.models, Path(output), num_examples, batch_size).run()))


def adaptation(
    output: str = "runs/adaptation",
    configs: str = str(RECIPES),
    seeds: list[int] | None = None,
    autoregressive_steps: int = 600,
    steps: int = 300,
    num_examples: int = 500,
    methods: list[str] | None = None,
) -> None:
    """Adapt small autoregressive models with and without a warm-up of the block length, and print the table.

    All train on easy prompts of the chain task, with the same budget. Models and results are kept under the output
    folder: run it again after an interruption and it resumes.

    Args:
        output: Folder for models, results.json and table.md.
        configs: Folder of the recipes; pretrain.yaml sets model sizes and learning rates.
        seeds: Training seeds; each has its own autoregressive model. Default: 0 1 2.
        autoregressive_steps: Training steps of the autoregressive models.
        steps: Training steps of each adaptation.
        num_examples: Test prompts decoded by each model.
        methods: Some of warm-up, no warm-up and from scratch. Default: all.
    """
    from dmaxlit.bench import METHODS, AdaptationBench

    bench = AdaptationBench(
        Path(output),
        Path(configs),
        seeds=tuple(seeds or (0, 1, 2)),
        autoregressive_steps=autoregressive_steps,
        steps=steps,
        num_examples=num_examples,
        methods=tuple(methods or METHODS),
    )
    print(printable(bench.run()))


def codila(
    output: str = "runs/codila_bench",
    configs: str = str(RECIPES),
    tasks: list[str] | None = None,
    seeds: list[int] | None = None,
    span_length: int = 4,
    steps: int | None = None,
    base_steps: int = 1500,
    num_examples: int = 500,
    repeats: int = 3,
) -> None:
    """Train auxiliary models (CoDiLA) on frozen bases, decode with them and without, and print the tables.

    The base decodes as many tokens at each forward with the auxiliary model and without. The tasks are the chain task,
    on the shipped base, and a line of names to be shuffled (the dependency task), on a base that is trained first.
    Models and results are kept under the output folder: run it again after an interruption and it resumes. The defaults
    take about three quarters of an hour on one CPU core.

    Args:
        output: Folder for models, results.json and table.md.
        configs: Folder of the recipes: pretrain.yaml and codila.yaml.
        tasks: Some of chain and shuffle. Default: both.
        seeds: Training seeds of the auxiliary models. Default: 0 1 2.
        span_length: Tokens that an auxiliary model decides together: 2, 4 or 8.
        steps: Training steps of an auxiliary model. Default: 300 for chain, 2000 for shuffle.
        base_steps: Training steps of the base of shuffle.
        num_examples: Test prompts decoded for each row.
        repeats: Times each row is decoded, in turn with the others; the least time counts.
    """
    from dmaxlit.bench import CodilaBench
    from dmaxlit.bench.codila import TASKS

    bench = CodilaBench(
        Path(output),
        Path(configs),
        tasks=tuple(TASKS) if tasks is None else tuple(tasks),
        seeds=(0, 1, 2) if seeds is None else tuple(seeds),
        span_length=span_length,
        steps=steps,
        base_steps=base_steps,
        num_examples=num_examples,
        repeats=repeats,
    )
    print(printable(bench.run()))


def decode(
    output: str = "runs/decode_speed",
    batches: list[int] | None = None,
    lengths: list[int] | None = None,
    hidden_size: int = 128,
    head_dim: int = 32,
    layers: int = 4,
    vocab_size: int = 4096,
    block_length: int = 32,
    tokens_per_step: int = 4,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "cpu",
    compile: bool = False,
    repeats: int = 3,
) -> None:
    """Time the engine against loops over single prompts, and against the batches of dllm and diffusers.

    Weights, prompts and tokens are the same for all: the model has random weights, and a fixed number of tokens is
    committed at each forward. Each measurement runs in a new process. The pipeline of diffusers is left out where the
    library is not installed. With one thread (OMP_NUM_THREADS=1) the time is the process's own.

    Args:
        output: Folder for results.json and table.md.
        batches: Batch sizes of the engine. Default: 1 4 16 64.
        lengths: Tokens generated for each prompt. Default: 512 128 2048.
        hidden_size: Width of the model, a multiple of head_dim.
        head_dim: Width of an attention head; FlexAttention and GPUs prefer 64 or 128.
        layers: Number of layers.
        vocab_size: Size of the vocabulary.
        block_length: Tokens per block.
        tokens_per_step: Tokens committed at each forward.
        dtype: Type of weights and activations.
        device: cpu, cuda, ...
        compile: Time the engine with compiled forwards as well.
        repeats: Runs of each measurement; the fastest counts.
    """
    from dmaxlit.bench import DecodeSpeedBench

    bench = DecodeSpeedBench(
        Path(output),
        batches=DecodeSpeedBench.batches if batches is None else batches,
        lengths=DecodeSpeedBench.lengths if lengths is None else lengths,
        hidden_size=hidden_size,
        head_dim=head_dim,
        layers=layers,
        vocab_size=vocab_size,
        block_length=block_length,
        tokens_per_step=tokens_per_step,
        dtype=dtype,
        device=device,
        compile=compile,
        repeats=repeats,
    )
    print(printable(bench.run()))


def train(
    output: str = "runs/train_speed",
    vocab_sizes: list[int] | None = None,
    lengths: list[int] | None = None,
    hidden_size: int = 256,
    head_dim: int = 32,
    layers: int = 4,
    batch_size: int = 2,
    block_length: int = 32,
    updates: int = 3,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "cpu",
    compile: bool = False,
    flex: bool = False,
) -> None:
    """Time a training step against the procedure of DMax's published code: same model, data, updates and gradients.

    The published procedure rolls out for every micro-batch, trains on the doubled sequence with all logits, and takes
    masked and predicted copies in separate passes. Each measurement runs in a new process.

    Args:
        output: Folder for results.json and table.md.
        vocab_sizes: Vocabularies. Default: 1000 32000 150000.
        lengths: Tokens of a sequence, each measured with each vocabulary. Default: 512.
        hidden_size: Width of the model, a multiple of head_dim.
        head_dim: Width of an attention head; FlexAttention and GPUs prefer 64 or 128.
        layers: Number of layers.
        batch_size: Sequences of a micro-batch.
        block_length: Tokens per block.
        updates: Updates that are timed.
        dtype: float32, or bfloat16 for autocast over float32 weights.
        device: cpu, cuda, ...
        compile: Time our step with compiled forwards as well.
        flex: Time our step with FlexAttention as well, which needs a GPU.
    """
    from dmaxlit.bench import TrainSpeedBench

    bench = TrainSpeedBench(
        Path(output),
        vocab_sizes=TrainSpeedBench.vocab_sizes if vocab_sizes is None else vocab_sizes,
        lengths=TrainSpeedBench.lengths if lengths is None else lengths,
        hidden_size=hidden_size,
        head_dim=head_dim,
        layers=layers,
        batch_size=batch_size,
        block_length=block_length,
        updates=updates,
        dtype=dtype,
        device=device,
        compile=compile,
        flex=flex,
    )
    print(printable(bench.run()))


def grading(data: str, output: str = "runs/grading", limit: int | None = None) -> None:
    """Grade the reference answers of real data sets, and the same with one error, and print the table.

    References have to be accepted in every form; without a marker, or with another sign, last digit, option or another
    question's answer, they have to be refused.

    Args:
        data: Folder with gsm8k_test.jsonl, math500.jsonl, asdiv.xml, ...; those that are there are graded.
        output: Folder for results.json and table.md.
        limit: Number of items of each data set. Default: all.
    """
    from dmaxlit.bench import GradingBench

    print(printable(GradingBench(Path(data), Path(output), limit).run()))


def loading(
    output: str = "runs/loading",
    sizes: list[int] | None = None,
    num_proc: int | None = None,
    batch_size: int = 32,
    batches: int = 500,
) -> None:
    """Start on corpora of more and more rows: encoded in memory, encoded into the cache, and mapped from it.

    The rows are those of the chain task. Each start runs in a new process, which sets up the data as fit does and reads
    batches. A million rows need about 1 GB of disk, for the corpus and its cache; both are removed.

    Args:
        output: Folder for results.json and table.md.
        sizes: Numbers of rows. Default: 10000 100000 1000000.
        num_proc: Processes that encode into the cache. Default: one for each core, at most 16.
        batch_size: Rows of a batch.
        batches: Batches that are read after the first.
    """
    from dmaxlit.bench import LoadingBench

    chosen = LoadingBench.sizes if sizes is None else sizes
    print(printable(LoadingBench(Path(output), chosen, num_proc, batch_size, batches).run()))


def vocabulary(
    output: str = "runs/vocabulary",
    configs: str = str(RECIPES),
    sizes: list[int] | None = None,
    seeds: list[int] | None = None,
    num_prompts: int = 2048,
    steps: int = 400,
    num_examples: int = 256,
    methods: list[str] | None = None,
) -> None:
    """Train the shipped base with more and more token ids that nothing uses, on uniform and on-policy noise.

    Random tokens of a large vocabulary look less like a model's own errors than those of a small one. All models learn
    from the same corpus, which the base writes. Models and results are kept under the output folder: run it again after
    an interruption and it resumes. The defaults take about two hours on one CPU core.

    Args:
        output: Folder for models, results.json and table.md.
        configs: Folder of the recipes: control.yaml, uniform.yaml and quickstart.yaml.
        sizes: Numbers of token ids, those of the base included. Default: 38 (the base's) 128 512 2000.
        seeds: Training seeds. Default: 0 1 2.
        num_prompts: Prompts that the base writes the corpus from.
        steps: Training steps of each model.
        num_examples: Test prompts decoded by each model.
        methods: Some of control, uniform and on_policy. Default: all.
    """
    from dmaxlit.bench import VocabularyBench
    from dmaxlit.bench.vocabulary import RECIPES as METHODS

    bench = VocabularyBench(
        Path(output),
        Path(configs),
        sizes=(38, 128, 512, 2000) if sizes is None else tuple(sizes),
        seeds=(0, 1, 2) if seeds is None else tuple(seeds),
        num_prompts=num_prompts,
        steps=steps,
        num_examples=num_examples,
        methods=tuple(METHODS) if methods is None else tuple(methods),
    )
    print(printable(bench.run()))


def frontier(
    output: str = "runs/frontier",
    setting: str = "standard",
    study: str = "methods",
    configs: str = str(RECIPES),
    seeds: list[int] | None = None,
    methods: list[str] | None = None,
    num_prompts: int = 2048,
    steps: int = 400,
    num_examples: int = 1000,
    num_timed: int = 32,
    repeats: int = 3,
) -> None:
    """Compare windows of blocks and further training with the faithful DMax: OPUT decoded with SPD.

    Rows are compared with it on the same prompts, in accuracy, TPF and tokens per second, which take turns. Models and
    rows are kept under the output folder: run it again after an interruption and it resumes.

    Args:
        output: Folder for models, and in it for each setting and study results.json and table.md.
        setting: standard: answers of two or three blocks, from the shipped base; or long: of six short blocks, from a
            base that the benchmark makes of the shipped one.
        study: methods: every way of training with every way of decoding; or window: what a window gains and loses by
            its size, its gate and the decoder's thresholds.
        configs: Folder of the recipes: pretrain.yaml, quickstart.yaml and its siblings.
        seeds: Training seeds. Default: 0 1 2.
        methods: Some of the study's, on_policy among them. Default: all.
        num_prompts: Prompts that the base writes the corpus from.
        steps: Training steps of on-policy training; of the other methods a share of them.
        num_examples: Test prompts decoded for each row.
        num_timed: How many of them are decoded to measure the speed, one and sixteen at a time.
        repeats: Turns of row and reference in which the speed is measured.
    """
    from dmaxlit.bench import FrontierBench

    bench = FrontierBench(
        Path(output),
        setting,
        study,
        Path(configs),
        seeds=(0, 1, 2) if seeds is None else tuple(seeds),
        methods=None if methods is None else tuple(methods),
        num_prompts=num_prompts,
        steps=steps,
        num_examples=num_examples,
        num_timed=num_timed,
        repeats=repeats,
    )
    print(printable(bench.run()))


def serve(
    output: str = "runs/serve",
    model: str = "builtin:chain-base",
    clients: int = 32,
    minutes: float = 3.0,
    decoder: str = "threshold",
    num_prompts: int = 128,
    repeats: int = 7,
    device: str = "cpu",
    dtype: Dtype = "float32",
    seed: int = 0,
) -> None:
    """Load a server with clients that ask, stream, leave and send nonsense; compare every answer, memory and speed.

    The server is dmaxlit serve in a process of its own. Each answer is compared with the one that generate gives alone,
    token by token; and the server's speed with that of generate at the same batch, on the same cores, one after the
    other.

    Args:
        output: Folder for results.json and table.md.
        model: Folder, .ckpt file, hub id or builtin:NAME of a model that was trained on a task.
        clients: Clients at the same time, and the batch of both when speed is compared.
        minutes: How long the clients work.
        decoder: Decoder when speed is compared.
        num_prompts: Prompts of a comparison of speed.
        repeats: Comparisons of speed.
        device: cpu, cuda, ...; of both models.
        dtype: Type of the weights.
        seed: Seed of what the clients do.
    """
    try:
        from dmaxlit.bench.serve_load import ServeBench
    except ModuleNotFoundError as error:
        raise UserError(f"bench serve: expected httpx, found no {error.name}; pip install 'dmaxlit[serve]'") from error
    bench = ServeBench(Path(output), model, clients, minutes, decoder, num_prompts, repeats, device, dtype, seed)
    print(printable(bench.run()))


BENCHMARKS: dict[str, Callable[..., None]] = {
    "adaptation": adaptation,
    "codila": codila,
    "decode": decode,
    "decoders": decoders,
    "frontier": frontier,
    "grading": grading,
    "loading": loading,
    "self_correction": self_correction,
    "serve": serve,
    "train": train,
    "vocabulary": vocabulary,
}
