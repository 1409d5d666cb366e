import json

import pytest

import dmaxlit
from dmaxlit.backbone import Denoiser
from dmaxlit.files import read_json
from dmaxlit.tasks import ChainTask
from tests.conftest import TINY

SHORT = "--max_new_tokens 12 --resamples 100"


@pytest.fixture(scope="module")
def sudoku(tmp_path_factory):
    """Export a tiny untrained model with the tokens of mini Sudoku; return its folder."""
    folder = tmp_path_factory.mktemp("models") / "sudoku"
    dmaxlit.DMaxModule(Denoiser(config=TINY, tokenizer="mini_sudoku", block_length=16)).export(folder)
    return folder


def test_several_tasks_and_decoders_are_in_one_table(dmax, tiny, tmp_path):
    flags = "--task chain,stories --task.chain.operations 3 --num_prompts 3"
    decoders = "--decoders '[spd, {name: threshold, options: {threshold: 0.9}, label: t}]'"
    ended = dmax(f"analyse order --model {tiny} {flags} {decoders} {SHORT} --output out")
    assert ended.status == 0, ended.err
    content = read_json(tmp_path / "out" / "order.json")
    labels = [(report["task"], report["decoder"]) for report in content["reports"]]
    assert labels == [("chain", "spd"), ("chain", "t"), ("stories", "spd"), ("stories", "t")]
    assert content["settings"]["tasks"]["chain"]["operations"] == 3
    assert all(f"| {task} " in ended.out for task in ("chain", "stories"))
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == ended.out


def test_all_prompts_of_a_task_that_has_fewer_are_taken(dmax, tiny, tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(f'{{"prompt": "{n} ?", "answer": "{n}"}}\n' for n in range(3)))
    line = f"analyse order --model {tiny} {SHORT} --task jsonl"
    ended = dmax(f"{line} --task.test q.jsonl --output out")
    assert ended.status == 0, ended.err
    refusal = dmax(f"{line} --task.test q.jsonl --num_prompts 4").refusal
    assert refusal == "num_prompts: expected at most the 3 test prompts of 'q.jsonl', got 4"
    assert dmax(f"{line} --task.train q.jsonl").refusal == "task: expected test prompts of 'jsonl', found none"


def test_saved_files_give_the_figures_of_the_model(dmax, tiny, tmp_path):
    flags = f"--model {tiny} --task chain --task.operations 3 --num_prompts 4 --max_new_tokens 12"
    for more in ("--trace_file t.safetensors", "--output a.jsonl"):
        assert dmax(f"generate {flags} {more}").status == 0
    assert dmax(f"analyse order {flags} --resamples 100 --output decoded").status == 0
    ended = dmax("analyse order --trace t.safetensors --answers a.jsonl --task chain --resamples 100 --output stored")
    assert ended.status == 0, ended.err
    decoded, stored = (read_json(tmp_path / name / "order.json")["reports"][0] for name in ("decoded", "stored"))
    assert decoded["rows"] == stored["rows"]


def test_budget_and_stop_texts_are_those_of_the_task(dmax, tiny, tmp_path, monkeypatch):
    def table():
        line = f"analyse order --model {tiny} --task chain --task.operations 3 --num_prompts 4 --resamples 100"
        ended = dmax(f"{line} --output out --overwrite true")
        assert ended.status == 0, ended.err
        return read_json(tmp_path / "out" / "order.json")["reports"][0]["rows"]

    monkeypatch.setattr(ChainTask, "max_new_tokens", 12)
    whole = table()
    prompts = [example.prompt for example in dmaxlit.task("chain", operations=3).examples("test", 4)]
    texts = [answer.text for answer in dmaxlit.load(tiny).generate(prompts, max_new_tokens=12)]
    monkeypatch.setattr(ChainTask, "stop", (texts[0].split()[4],))
    assert table() != whole


def test_sudoku_has_its_blanks(dmax, sudoku, tmp_path):
    flags = "--task mini_sudoku --task.wording grid --task.difficulty hard --decoder.tau_dec 0.3"
    ended = dmax(f"analyse order --model {sudoku} {flags} {SHORT} --num_prompts 3 --output out")
    assert ended.status == 0, ended.err
    assert read_json(tmp_path / "out" / "order.json")["reports"][0]["blanks"]["answers"] == 3
    assert "answers are complete grids" in ended.out


def test_blanks_of_saved_answers_need_the_tokenizer(dmax, sudoku, tmp_path):
    flags = f"--model {sudoku} --task mini_sudoku --task.wording grid --num_prompts 2 --max_new_tokens 12"
    for more in ("--trace_file t.safetensors", "--output a.jsonl"):
        assert dmax(f"generate {flags} {more}").status == 0
    stored = "analyse order --trace t.safetensors --answers a.jsonl --task mini_sudoku --resamples 100"
    without = dmax(f"{stored} --output without")
    assert without.status == 0
    assert "the blanks are left out; --model names the model" in without.err
    assert dmax(f"{stored} --model {sudoku} --output with").status == 0
    blanks = [read_json(tmp_path / name / "order.json")["reports"][0]["blanks"] for name in ("without", "with")]
    assert blanks[0] is None
    assert blanks[1]["answers"] == 2


def test_decoders_may_be_names_separated_by_commas(dmax, tiny, tmp_path):
    flags = f"--decoders spd,threshold --task chain --task.operations 3 --num_prompts 2 {SHORT}"
    assert dmax(f"analyse order --model {tiny} {flags} --output out").status == 0
    reports = read_json(tmp_path / "out" / "order.json")["reports"]
    assert [report["decoder"] for report in reports] == ["spd", "threshold"]


def test_decoders_come_from_a_configuration_file_too(dmax, tiny, tmp_path):
    (tmp_path / "c.yaml").write_text("decoders: [one_token, {name: threshold, options: {threshold: [0.5, 0.9]}}]\n")
    flags = f"--config c.yaml --task chain --task.operations 3 --num_prompts 2 {SHORT}"
    assert dmax(f"analyse order --model {tiny} {flags} --output out").status == 0
    reports = read_json(tmp_path / "out" / "order.json")["reports"]
    titles = ["one_token", "threshold threshold=0.5", "threshold threshold=0.9"]
    assert [report["decoder"] for report in reports] == titles
    assert read_json(tmp_path / "out" / "order.json")["settings"]["decoders"] == {
        titles[0]: {"decoder": "one_token", "options": {}},
        titles[1]: {"decoder": "threshold", "options": {"threshold": 0.5}},
        titles[2]: {"decoder": "threshold", "options": {"threshold": 0.9}},
    }


def test_a_decoder_of_the_list_decodes_in_its_window(dmax, tiny, tmp_path):
    one = {"name": "threshold", "options": {"threshold": 1.0}, "label": "one"}
    two = {**one, "label": "two", "window": 2, "admission_options": {"theta": 0.1}}
    (tmp_path / "c.yaml").write_text(json.dumps({"decoders": [one, two]}))
    flags = "--config c.yaml --task chain --task.operations 3 --num_prompts 2 --max_new_tokens 48 --resamples 100"
    assert dmax(f"analyse order --model {tiny} {flags} --output out").status == 0
    reports = {report["decoder"]: report["rows"] for report in read_json(tmp_path / "out" / "order.json")["reports"]}
    assert reports["two"] != reports["one"]


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("analyse ordr", "unknown analysis 'ordr' (did you mean order?); known: order"),
        ("analyse order --task chain", "model: expected --model and --task, or --trace and --answers, got neither"),
        ("analyse order --model M", "model: expected --model and --task, or --trace and --answers, got neither pair"),
        ("analyse order --model ./gone --task chain", "model: expected a model folder, a hub id or builtin:NAME"),
        ("analyse order --model M --task chian", "unknown task 'chian'"),
        ("analyse order --model M --task chain,", "task: expected different names separated by commas, got 'chain,'"),
        ("analyse order --model M --task chain,chain", "task: expected different names separated by commas"),
        ("analyse order --model M --task chain --task.length 3", "task 'chain': unknown option length"),
        (
            "analyse order --model M --task chain,stories --task.difficulty easy",
            "task_options: expected the options of chain, stories, each under its name, got 'difficulty'",
        ),
        ("analyse order --model M --task chain --decoder spdd", "unknown decoder 'spdd'"),
        ("analyse order --model M --task chain --decoders '[]'", "decoders: expected at least one decoder, got none"),
        (
            "analyse order --model M --task chain --decoders '[3]'",
            "decoders, item 1: expected a name, or a mapping with",
        ),
        (
            "analyse order --model M --task chain --decoders '[spd, spd]'",
            "decoders: expected different settings, got 'spd' twice",
        ),
        ("analyse order --model M --task chain --resamples 9", "resamples: expected at least 100, got 9"),
        ("analyse order --model M --task chain --num_prompts 0", "num_prompts: expected at least 1, got 0"),
        (
            "analyse order --trace t",
            "trace: expected one of --answers, and of --task if any, for each --trace, got 1, 0",
        ),
        ("analyse order --trace t --answers a --task b,c", "for each --trace, got 1, 1 and 2"),
        (
            "analyse order --trace t --answers a --decoder.tau_dec 1",
            "decoder_options: expected none with --trace, got {'tau_dec': 1}",
        ),
        ("analyse order --trace t --answers a --task.test F", "task_options: expected none with --trace, got {"),
        ("analyse order --trace t --answers a --num_prompts 5", "num_prompts: expected none with --trace, got 5"),
        ("analyse order --trace t --answers a --temperature 0.5", "temperature: expected none with --trace, got 0.5"),
        ("analyse order --trace t --answers a", "answers: cannot read 'a' (No such file or directory)"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, tmp_path, line, refusal):
    assert refusal in dmax(line).refusal
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused_before_anything_is_loaded(dmax, tmp_path):
    assert "expected a folder that can be replaced" in dmax("analyse order --model M --task chain --output .").refusal
    (tmp_path / "notes").write_text("mine")
    assert "expected a folder of reports alone" in dmax("analyse order --model M --task chain --output .").refusal
    below = dmax("analyse order --model M --task chain --output notes/below").refusal
    assert "notes/" in below
    assert "Not a directory" in below


def test_the_analyses_are_listed(dmax):
    assert "order" in dmax("analyse").out
    assert dmax("analyse --help").out == dmax("analyse").out
    assert "Kendall's tau" in dmax("analyse order --help").out
