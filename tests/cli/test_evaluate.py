import json
import re

import pytest
import yaml

from tests.cli.conftest import TASK

SHORT = "--tasks chain --task.chain.operations 3 --num_prompts 5 --max_new_tokens 8 --device cpu"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def record(folder):
    return json.loads((folder / "record.json").read_text())


@pytest.fixture(autouse=True)
def _drawn_once(request):
    if "picture" not in request.node.name:
        request.getfixturevalue("undrawn")


def test_a_table_samples_curve_picture_and_record_are_written(dmax, tiny, tmp_path):
    ended = dmax(f"evaluate --model {tiny} --output out {SHORT} --decoders spd,threshold")
    assert ended.status == 0, ended.err
    assert ended.out == (tmp_path / "out/table.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "out/chain").iterdir() if ".manifest" not in path.name) == [
        "curve.csv",
        "curve.json",
        "curve.pdf",
        "curve.png",
        "curve.svg",
        "one_token.jsonl",
        "spd.jsonl",
        "threshold.jsonl",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "chain",
        "record.json",
        "settings.json",
        "table.md",
    ]
    assert (tmp_path / "out/chain/curve.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "out/chain/curve.csv").read_text().splitlines()) == 4
    made = record(tmp_path / "out")
    assert made["tasks"]["chain"]["options"]["operations"] == TASK["operations"]
    assert made["model"]["source"] == str(tiny)
    assert made["device"]["type"] == "cpu"


def test_tasks_and_decoders_may_be_lists(dmax, tiny, tmp_path):
    args = ["--tasks", "[{name: chain, options: {operations: 3}}]", "--num_prompts", "2", "--max_new_tokens", "4"]
    args += ["--decoders", "[spd, {name: threshold, options: {threshold: 0.5}}]", "--device", "cpu", "--output", "out"]
    ended = dmax(["evaluate", "--model", str(tiny), *args])
    assert ended.status == 0, ended.err
    assert re.findall(r"^\| (\w+)", ended.out, re.MULTILINE)[-3:] == ["one_token", "spd", "threshold"]
    for value, message in (
        ("[spd", r"decoders: expected a value, got '\[spd', which is not YAML"),
        ("[]", "decoders: expected at least one decoder, got none"),
    ):
        refused = dmax(["evaluate", "--model", str(tiny), *SHORT.split(), "--output", "o", "--decoders", value]).refusal
        assert re.match(message, refused), refused


def test_a_configuration_file_may_have_the_lists(dmax, tiny, tmp_path):
    config = {"model": str(tiny), "tasks": [{"name": "chain", "options": {"operations": 3}}], "num_prompts": 2}
    config |= {"decoders": ["spd", {"name": "threshold", "label": "t"}], "one_token": False, "max_new_tokens": 4}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    ended = dmax("evaluate --config c.yaml --output out --device cpu")
    assert ended.status == 0, ended.err
    assert [(result["task"], result["title"]) for result in record(tmp_path / "out")["results"]] == [
        ("chain", "spd"),
        ("chain", "t"),
    ]
    assert dmax("evaluate --config c.yaml --output o --tasks '[]'").refusal.startswith("tasks: expected a value, got")


def test_tasks_and_decoders_may_come_from_files_and_options_from_flags_and_configs(dmax, tiny, tmp_path):
    tasks = [
        {"name": "chain", "label": "three", "options": {"operations": 3}},
        {"name": "chain", "label": "four", "options": {"operations": 9}},
    ]
    decoders = [{"name": "spd", "options": {"tau_dec": [0.5, 0.0]}}]
    config = {"model": str(tiny), "tasks": "t.yaml", "decoders": "d.yaml", "num_prompts": 2, "max_new_tokens": 4}
    config["task_options"] = {"four": {"operations": 5, "seed": 1}}
    for name, content in (("t", tasks), ("d", decoders), ("c", config)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    ended = dmax("evaluate --config c.yaml --task.four.operations=4 --output out --device cpu --one_token false")
    assert ended.status == 0, ended.err
    made = record(tmp_path / "out")
    assert [(result["task"], result["title"]) for result in made["results"]] == [
        (task, f"spd tau_dec={value}") for task in ("three", "four") for value in (0.5, 0.0)
    ]
    assert made["tasks"]["four"]["options"]["operations"] == 4
    assert made["tasks"]["four"]["options"]["seed"] == 1


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--tasks chan", "unknown task 'chan'; known: asdiv, chain"),
        ("--tasks gone.yaml", "gone.yaml: cannot be read"),
        ("--tasks bad.yaml", "tasks: expected a list of names or mappings in 'bad.yaml', got a value of type dict"),
        ("--tasks ,", "tasks: expected at least one task, got none"),
        ("--tasks chain --task.chan.operations 3", "task.chan.operations: expected --task.NAME.OPTION of one"),
        ("--tasks chain --task.operations 3", "task.operations: expected --task.NAME.OPTION of one"),
        ("--tasks chain --task.chain.operations", "task.chain.operations: expected a value"),
        ("--tasks chain --task.chain.operations [", "task.chain.operations: expected a value, got '['"),
        ("--tasks chain --task.chain.operations .nan", "task.chain.operations: expected a number, got nan"),
        ("--tasks chain --task.chain.operation 3", "task 'chain': unknown option operation"),
        ("--tasks jsonl", "jsonl: expected either path or files for train, val, test"),
        ("--tasks jsonl --task.jsonl.path gone.jsonl", "path: no such file: 'gone.jsonl'"),
        ("--tasks jsonl --task.jsonl.val one.jsonl", "tasks: expected test prompts of 'jsonl', found none"),
        ("--tasks chain --decoders nope", "decoders, item 1: unknown decoder 'nope'"),
        ("--tasks chain --decoders gone.yaml", "gone.yaml: cannot be read"),
        ("--tasks chain --num_prompts 0", "num_prompts: expected at least 1, got 0"),
        ("--tasks chain --batch_size 0", "batch_size: expected at least 1, got 0"),
        ("--tasks chain --temperature -1", "temperature: expected a number from 0"),
        ("--tasks chain --task.chain.operations 64 --split test --model SMALL", "chain: test prompt 1 ('"),
        ("--tasks chain --device nowhere", "device: expected what torch can compute on here, got 'nowhere'"),
        ("--tasks chain --device cpu:x", "device: expected a kind of device, or one with devices 1, got 'cpu:x'"),
        ("--tasks chain --devices 0", "devices: expected at least 1, got 0"),
        ("--tasks chain --output bad.yaml", "output: expected a folder to write, got 'bad.yaml', which is none"),
        ("--tasks chain --output .", "output: expected a new folder, or that of an evaluation, got '.', which holds"),
        ("--task chain", "unknown setting 'task' (did you mean tasks?)"),
        ("", "tasks: expected a value, got none"),
        ("--tasks chain --assistant x", "assistant: expected --autoregressive with it, got 'x' alone"),
        ("--tasks chain --autoregressive ./gone", "autoregressive: expected a model folder"),
        ("--tasks chain --model ./gone", "model: expected a model folder"),
        ("--tasks chain --compare a b", "compare: expected no --model with it"),
        ("--regrade a", "regrade: expected no --model with it"),
        ("--compare a", "argument --compare: expected 2 arguments"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(dmax, tiny, tmp_path, flags, refusal):
    from dmaxlit import DMaxModule
    from tests.conftest import make_denoiser

    (tmp_path / "bad.yaml").write_text("a: 1\n")
    (tmp_path / "one.jsonl").write_text('{"prompt": "3 ?", "answer": "3"}\n')
    if "SMALL" in flags:
        DMaxModule(make_denoiser(block_length=16, max_position_embeddings=64)).export(tmp_path / "SMALL")
    before = sorted(path.name for path in tmp_path.iterdir())
    device = "" if "--device " in flags else "--device cpu"
    output = "" if "--output" in flags else "--output out"
    ended = dmax(f"evaluate --model {tiny} {output} {device} {flags}")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith(f"error: {refusal}"), ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_two_evaluations_are_compared(dmax, tiny, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        line = f"evaluate --model {tiny} --output {name} {SHORT} --temperature 1 --seed {seed} --one_token false"
        assert dmax(line).status == 0
    refused = dmax("evaluate --compare a b --task.chain.operations 3").refusal
    assert refused == "compare: expected no --task.chain.operations with it, got 3"
    ended = dmax("evaluate --compare a b --output c.json")
    assert ended.status == 0, ended.err
    assert ended.out.startswith("## chain\n\n5 prompts\n\n|")
    (figures,) = json.loads((tmp_path / "c.json").read_text())
    verdicts = [[row["correct"] for row in rows(tmp_path / name / "chain/spd.jsonl")] for name in "ab"]
    assert figures["accuracy"] == [sum(verdicts[0]) / 5, sum(verdicts[1]) / 5]
    other = f"evaluate --model {tiny} --output d {SHORT} --task.chain.operations 4 --one_token false"
    assert dmax(other).status == 0
    assert dmax("evaluate --compare a d").refusal.startswith("compare: expected the same prompts, got 5 of 'chain'")


@pytest.mark.parametrize("output", ["a/record.json", "./b"])
def test_a_comparison_does_not_replace_what_it_compares(dmax, output):
    refusal = dmax(f"evaluate --compare a b --output {output}").refusal
    assert refusal == f"output: expected another file than those of --compare, got {output!r}"


def test_the_options_of_a_task_are_explained(dmax):
    ended = dmax("evaluate --task.help chain")
    assert ended.status == 0
    assert "Length of the chain" in ended.out


@pytest.mark.slow
def test_two_processes_equal_one(dmax, processes, tiny, tmp_path):
    sampled = ("--decoders", "spd", "--temperature", "1", "--batch_size", "2")
    command = ["evaluate", "--model", str(tiny), *SHORT.split(), *sampled]
    two_processes = [*command, "--output", "two", "--devices", "2"]
    codes = processes.run(two_processes, tmp_path / "log", folder=tmp_path, ranks=2)
    output = "".join((tmp_path / f"log.{rank}").read_text() for rank in range(2))
    assert codes == [0, 0], output
    assert output.count("| one_token") == 1
    assert dmax([*command, "--output", "one"]).status == 0
    for name in ("chain/one_token.jsonl", "chain/spd.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    two, one = record(tmp_path / "two"), record(tmp_path / "one")
    assert (two["device"].pop("processes"), one["device"].pop("processes")) == (2, 1)
    for made in (two, one):
        del made["command"], made["environments"]
        for result in made["results"]:
            result["timing"] = None
    assert two == one
    assert sorted(path.name for path in (tmp_path / "two").rglob(".*")) == []


def test_answers_are_graded_again_without_a_model(dmax, tiny, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "1 +1 ?", "answer": "#### 2"}\n')
    line = f"--model {tiny} --tasks gsm8k --task.gsm8k.path q.jsonl --max_new_tokens 8 --one_token false --device cpu"
    assert dmax(f"evaluate {line} --output strict").status == 0
    ended = dmax("evaluate --regrade strict --output lenient --task.gsm8k.lenient true")
    assert ended.status == 0, ended.err
    assert ended.out == (tmp_path / "lenient" / "table.md").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "lenient" / "record.json").read_text())
    assert record["tasks"]["gsm8k"]["grading"] == "lenient"
    for flags, refusal in (
        ("", "output: expected a folder to write, got none"),
        ("--output strict", "output: expected another folder than that of the answers"),
        ("--output new --num_prompts 1", "regrade: expected no --num_prompts with it, got 1"),
        ("--output new --decoders edit", "regrade: expected no --decoders with it, got 'edit'"),
        ("--output lenient", "output: 'lenient' holds a run with other settings: tasks.gsm8k.options.lenient was"),
        ("--output new --task.chain.x 3", "task.chain.x: expected --task.NAME.OPTION of one of the tasks (gsm8k)"),
    ):
        assert dmax(f"evaluate --regrade strict {flags}").refusal.startswith(refusal)
    assert not (tmp_path / "new").exists()
