import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from dmaxlit.bench import AdaptationBench
from dmaxlit.bench.command import RECIPE_FOLDER
from dmaxlit.cli.bench import BENCHMARKS, bench_class
from dmaxlit.cli.recipes import RECIPES

ROOT = Path(__file__).parents[2]
REQUIRED = {"grading": ["--data", "x"]}


@pytest.fixture
def runs(monkeypatch):
    """Collect the benchmarks that a command runs, which return at once."""
    collected = []

    def run(bench):
        collected.append(bench)
        return "table \x1b]0;owned\x07"

    monkeypatch.setattr(AdaptationBench, "run", run)
    return collected


def test_the_overview_has_the_first_lines_of_the_docstrings(dmax):
    first_lines = {name: bench_class(name).__doc__.partition("\n")[0] for name in BENCHMARKS}
    lines = dmax("bench").out.splitlines()
    assert lines[0] == "usage: dmaxlit bench NAME [options]"
    assert dict(line.split(maxsplit=1) for line in lines[2:]) == first_lines


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_fields_are_the_options_with_a_plain_text_each(dmax, name, tmp_path):
    options = [field.name for field in fields(bench_class(name))]
    ended = dmax(["bench", name, "--help"])
    assert ended.status == 0
    usage, _, text = ended.out.partition("\n\n")
    assert re.findall(r"--(\w+)", usage) == ["config", *options, "safe"]
    assert not re.search(r"``|:\w+:`|<class|\bSequence\b", text)
    for option in options:
        assert re.search(rf"^  --{option}\b.*?\s\s+\S[^(]*\S \((type|required)", text, re.MULTILINE | re.DOTALL)
    printed = dmax(["bench", name, *REQUIRED.get(name, []), "--print_config"])
    assert list(yaml.safe_load(printed.out)) == [*options, "safe"]
    (tmp_path / "again.yaml").write_text(printed.out)
    assert dmax(f"bench {name} --config again.yaml --print_config").out == printed.out


def test_flags_and_files_set_the_fields_and_the_table_is_printable(dmax, runs, tmp_path):
    (tmp_path / "bench.yaml").write_text("seeds: [3]\nsteps: 7\noutput: from_file\n")
    ended = dmax(["bench", "adaptation", "--config", "bench.yaml", "--steps", "8", "--methods", '["warm-up"]'])
    assert ended.out == "table \\x1b]0;owned\\x07\n"
    (bench,) = runs
    assert (str(bench.output), list(bench.seeds), bench.steps, list(bench.methods)) == (
        "from_file",
        [3],
        8,
        ["warm-up"],
    )
    assert bench.configs == RECIPE_FOLDER == RECIPES
    dmax(["bench", "adaptation", "--seeds", "[0]", "--seeds+", "4"])
    assert runs[1].seeds == [0, 4]
    assert runs[1].methods == ["warm-up", "no warm-up", "from scratch"]


def documented_commands():
    """Return the arguments of each benchmark that a README runs, some of them over several lines."""
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "dmaxlit").rglob("README.md"))]
    lines = re.findall(r"python -m dmaxlit bench (?!NAME)((?:'[^']*'|\\\n|[^\n`'])*)", "\n".join(texts))
    return [shlex.split(line.replace("\\\n", ""), comments=True) for line in lines]


@pytest.mark.parametrize("args", documented_commands(), ids=" ".join)
def test_the_documented_commands_are_accepted(dmax, args):
    name, *options = args
    ended = dmax(["bench", name, *options, "--print_config"])
    assert ended.status == 0, ended.err
    assert {option[2:] for option in options if option.startswith("--")} <= yaml.safe_load(ended.out).keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("adaptatoin", "unknown benchmark 'adaptatoin' (did you mean adaptation?); known: adaptation, codila,"),
        ("adaptation --sedes [0]", "unknown setting 'sedes' (did you mean seeds?)"),
        ("adaptation --seeds x", "seeds: expected list, got 'x'"),
        ("adaptation --seeds null", "seeds: expected list, got 'None'"),
        ("adaptation --seeds [a]", "seeds: expected int, got 'a'"),
        ("adaptation --steps 0", "steps: expected at least 1, got 0"),
        ("adaptation --configs nowhere", "configs: expected a folder with pretrain.yaml, got 'nowhere'"),
        ("train --dtype float16", "dtype: expected 'float32' or 'bfloat16', got 'float16'"),
        ("serve --minutes .nan", "minutes: expected a number, got nan"),
        ("decoders --curves x", "unknown setting 'curves'"),
        ("grading", "the following arguments are required: data"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, arguments, message):
    assert message in dmax(f"bench {arguments}").refusal


def test_a_load_without_httpx_says_what_to_install(dmax, monkeypatch):
    monkeypatch.delitem(sys.modules, "dmaxlit.bench.serve_load", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    refusal = dmax("bench serve").refusal
    assert refusal == "bench serve: expected httpx, found none; pip install -e '.[serve]'"
