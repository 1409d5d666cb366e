"""``dmaxlit bench``."""

from importlib import import_module
from pathlib import Path
from typing import Any

import dmaxlit
from dmaxlit.cli.arguments import call, make_parser
from dmaxlit.cli.class_summaries import class_summaries
from dmaxlit.cli.messages import closest
from dmaxlit.errors import UserError, printable

# For each benchmark, its module in dmaxlit.bench and the class in it whose fields are the options.
BENCHMARKS: dict[str, tuple[str, str]] = {
    "adaptation": ("adaptation", "AdaptationBench"),
    "codila": ("codila", "CodilaBench"),
    "decode": ("decode_speed", "DecodeSpeedBench"),
    "decoders": ("decoders", "DecoderBench"),
    "frontier": ("frontier", "FrontierBench"),
    "grading": ("grading", "GradingBench"),
    "loading": ("loading", "LoadingBench"),
    "scale": ("scale", "ScaleBench"),
    "self_correction": ("self_correction", "SelfCorrectionBench"),
    "serve": ("serve_load", "ServeBench"),
    "tables": ("tables", "TablesBench"),
    "train": ("train_speed", "TrainSpeedBench"),
    "vocabulary": ("vocabulary", "VocabularyBench"),
}


def run(command: str, args: list[str]) -> None:
    """Run a benchmark, or list the benchmarks."""
    name, *rest = args or ["--help"]
    if name in ("-h", "--help"):
        print(printable(_overview()))
        return
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}{closest(name, BENCHMARKS)}; known: {', '.join(BENCHMARKS)}")
    bench = bench_class(name)
    made = call(make_parser(f"bench {name}", bench), bench, rest)
    from dmaxlit.bench.termination import exit_on_signals  # here, as it comes with the libraries of all benchmarks

    with exit_on_signals():
        print(printable(made.run()))


def bench_class(name: str) -> type[Any]:
    """Return the class of a benchmark.

    Args:
        name: A key of :data:`BENCHMARKS`.

    Raises:
        UserError: If it needs httpx, which is not installed.
    """
    module, class_name = BENCHMARKS[name]
    try:
        cls: type[Any] = getattr(import_module(f"dmaxlit.bench.{module}"), class_name)
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise UserError(f"bench {name}: expected httpx, found none; pip install -e '.[serve]'") from error
    return cls


def _overview() -> str:
    folder = Path(dmaxlit.__file__).parent / "bench"
    summaries = class_summaries(folder / f"{module}.py" for module, _ in BENCHMARKS.values())
    lines = [f"  {name:18}{summaries[class_name]}" for name, (_, class_name) in BENCHMARKS.items()]
    return "\n".join(["usage: dmaxlit bench NAME [options]", "", *lines])
