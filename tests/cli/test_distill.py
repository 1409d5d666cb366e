import json

import pytest

import dmaxlit
from dmaxlit.data.messages import text_of
from dmaxlit.errors import UserError
from tests.cli.conftest import TASK

SHORT = "--keep all --max_new_tokens 6 --num_prompts 3"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest(path):
    return json.loads(path.with_name(path.name + ".manifest.json").read_text())


def test_the_task_a_model_was_trained_on_is_the_default(dmax, tiny, tmp_path):
    ended = dmax(f"distill --model {tiny} --output c.jsonl {SHORT}")
    assert ended.status == 0, ended.err
    expected = [example.prompt for example in dmaxlit.task("chain", **TASK).examples("train", 3)]
    assert [row["prompt"] for row in rows(tmp_path / "c.jsonl")] == expected
    settings = manifest(tmp_path / "c.jsonl")["settings"]
    assert (settings["decoder"], settings["decoder_options"]) == ("threshold", {"threshold": 0.95})
    assert "kept 3 of 3 answers" in ended.out


def test_decoder_and_task_take_options_as_flags(dmax, tiny, tmp_path):
    flags = "--decoder spd --decoder.tau_dec 0.25 --task.operations 4"
    assert dmax(f"distill --model {tiny} --output c.jsonl {SHORT} {flags}").status == 0
    settings = manifest(tmp_path / "c.jsonl")["settings"]
    assert settings["decoder_options"] == {"tau_dec": 0.25}
    assert settings["task_options"]["operations"] == 4


def test_all_prompts_of_a_task_that_has_fewer_are_answered(dmax, tiny, tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(f'{{"prompt": "{n} ?", "answer": "{n}"}}\n' for n in range(3)))
    line = f"distill --model {tiny} --keep all --max_new_tokens 6 --output c.jsonl --task jsonl"
    assert "of 3 answers" in dmax(f"{line} --task.train q.jsonl").out
    refusal = dmax(f"{line} --task.train q.jsonl --num_prompts 4").refusal
    assert refusal == "num_prompts: expected at most the 3 train prompts of 'q.jsonl', got 4"
    assert dmax(f"{line} --task.test q.jsonl").refusal == "task: expected training prompts, found none"


def test_prompts_may_come_from_a_file(dmax, tiny, corpus, tmp_path):
    ended = dmax(f"distill --model {tiny} --output c.jsonl --keep all --max_new_tokens 6 --prompts {corpus}")
    assert ended.status == 0, ended.err
    assert [row["prompt"] for row in rows(tmp_path / "c.jsonl")] == [row["prompt"] for row in rows(corpus)]


def test_columns_of_a_file_of_prompts_may_have_other_names(dmax, tiny, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"q": "3 +1 ?", "prompt": "x"}')
    flags = "--keep all --max_new_tokens 6 --prompts p.jsonl --columns.prompt q"
    assert dmax(f"distill --model {tiny} --output c.jsonl {flags}").status == 0
    assert [row["prompt"] for row in rows(tmp_path / "c.jsonl")] == ["3 +1 ?"]


def test_a_model_is_trained_on_its_answers_to_dialogues(dmax, tiny, base, tmp_path):
    model = dmaxlit.load(tiny)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    model.export(tmp_path / "chat")
    dialogues = [
        [{"role": "system", "content": str(n)}, {"role": "user", "content": [{"type": "text", "text": f"{n} +1 ?"}]}]
        for n in range(8)
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"id": 1, "messages": turns}) for turns in dialogues))
    ended = dmax("distill --model chat --output c.jsonl --keep all --max_new_tokens 6 --prompts p.jsonl")
    assert ended.status == 0, ended.err
    expected = model.generate(dialogues, "threshold", 6, threshold=0.95)
    for row, turns, answer in zip(rows(tmp_path / "c.jsonl"), dialogues, expected, strict=True):
        said = [*turns, {"role": "assistant", "content": answer.text}]
        assert row == {"messages": [{**turn, "content": text_of(turn["content"])} for turn in said]}
    ended = dmax(f"fit --config {base} --model chat --data.corpus c.jsonl")
    assert ended.status == 0, ended.err


def test_the_same_command_again_changes_nothing(dmax, tiny, tmp_path):
    for _ in range(2):
        assert dmax(f"distill --model {tiny} --output c.jsonl {SHORT}").status == 0
        state = (tmp_path / "c.jsonl").stat()
    assert (tmp_path / "c.jsonl").stat() == state
    assert len(rows(tmp_path / "c.jsonl")) == 3


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--keep best", "keep: expected 'finished', 'correct' or 'all', got 'best'"),
        ("--task chan", "unknown task 'chan'; known: asdiv, chain, "),
        ("--task chain --prompts x.txt", "prompts: expected either a task or a file of prompts, got both"),
        ("--prompts gone.txt", "prompts: cannot read 'gone.txt'"),
        ("--max_new_tokens 0", "max_new_tokens: expected at least 1, got 0"),
        ("--prompts p.txt --max_new_tokens 0", "max_new_tokens: expected at least 1, got 0"),
        ("--prompts p.txt --num_prompts 0", "num_prompts: expected at least 1, got 0"),
        ("--prompts p.txt --task.difficulty easy", "task_options: expected none with a file of prompts, got some"),
        ("--columns.prompt q", "columns: expected none without a file of prompts, got some"),
        ("--decoder nope", "unknown decoder 'nope'"),
        ("--temperature -1", "temperature: expected a number from 0 to 10000, got -1"),
        ("--decoder.temperature 1", "decoder_options: expected no temperature, which is a setting of its own (--temp"),
        ("--num_prompts 3 --output p.txt/deep/c.jsonl", "output: cannot write 'p.txt/deep/c.jsonl' (Not a directory)"),
        ("--num_prompts 3 --output c.txt", "output: expected a .jsonl file to write, got 'c.txt'"),
        ("--num_prompts 3 --output c.jsonl.gz", "output: expected a .jsonl file to write, got 'c.jsonl.gz'"),
        ("--prompts c.jsonl --overwrite true", "output: expected another file than --prompts, got 'c.jsonl'"),
        (
            "--task jsonl --task.train ./c.jsonl --overwrite true",
            "output: expected another file than --task.train, got",
        ),
        ("--prompts c.held_out.jsonl --held_out 0.5", "held_out: expected another file than --prompts, got 'c.held"),
        ("--prompts . --max_new_tokens 9", "output: expected a file that --prompts '.' does not read too, got"),
        ("--task jsonl --task.train *.jsonl", "output: expected a file that --task.train '*.jsonl' does not read too"),
        ("--prompts *.held_out.jsonl --held_out 0.5", "held_out: expected a file that --prompts '*.held_out.jsonl' "),
        ("--prompts - --devices 2 --max_new_tokens 9", "prompts: expected a file or --task for several processes, got"),
        ("--num_prompts 0", "num_prompts: expected at least 1, got 0"),
        ("--num_prompts 3 --decoder.threshold 2", "threshold: expected a number in [0, 1], got 2"),
        ("--modl x", "unknown setting 'modl' (did you mean model?)"),
        ("--device nowhere", "device: "),
        ("--model ./gone", "model: expected a model folder, a hub id or builtin:NAME"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(dmax, tiny, tmp_path, flags, refusal):
    (tmp_path / "p.txt").write_text("3 +1 ?\n")
    ended = dmax(f"distill --model {tiny} --output c.jsonl {flags}")
    assert ended.status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]
    assert ended.err.splitlines()[-1].startswith(f"error: {refusal}")


def test_a_model_that_does_not_know_its_task_needs_one(dmax, tmp_path):
    from dmaxlit.cli.distill import distill
    from tests.conftest import make_denoiser

    dmaxlit.DMaxModule(make_denoiser()).export(tmp_path / "blank")
    with pytest.raises(UserError, match=r"task: expected a task or a file of prompts; '.*' does not say"):
        distill(str(tmp_path / "blank"), "c.jsonl")


def test_samples_have_a_temperature_and_a_seed(dmax, tiny, tmp_path):
    flags = f"{SHORT} --temperature 1.5 --top_p 0.9"
    for name, more in (("a", "--seed 1 --batch_size 1"), ("b", "--seed 1"), ("c", "--seed 2")):
        assert dmax(f"distill --model {tiny} --output {name}.jsonl {flags} {more}").status == 0
    a, b, c = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    settings = manifest(tmp_path / "a.jsonl")["settings"]
    assert (settings["temperature"], settings["top_p"], settings["seed"]) == (1.5, 0.9, 1)


def test_more_prompts_than_a_file_has_are_all_of_them(dmax, tiny, corpus, tmp_path):
    flags = f"--model {tiny} --max_new_tokens 6 --prompts {corpus} --num_prompts 100"
    for command in ("distill --keep all --output c.jsonl", "generate --output a.jsonl"):
        ended = dmax(f"{command} {flags}")
        assert ended.status == 0, ended.err
        assert "prompts: 8 are there, 100 were asked for; all are answered" in ended.err
    assert len(rows(tmp_path / "c.jsonl")) == len(rows(tmp_path / "a.jsonl")) == 8


def test_a_chat_template_and_its_variables_are_flags(dmax, tiny, corpus, tmp_path):
    (tmp_path / "t.jinja").write_text("{% if first %}3 +1 ?{% else %}{{ messages[0].content }}{% endif %}")
    command = f"distill --model {tiny} --keep all --max_new_tokens 6 --prompts {corpus} --chat_template t.jinja"
    for name, more in (("plain", ""), ("first", "--template_options.first true")):
        ended = dmax(f"{command} {more} --output {name}.jsonl")
        assert ended.status == 0, ended.err
    plain, first = ([row["response"] for row in rows(tmp_path / f"{name}.jsonl")] for name in ("plain", "first"))
    assert len(set(plain)) > len(set(first)) == 1
    assert len({manifest(tmp_path / f"{name}.jsonl")["settings"]["chat_template"] for name in ("plain", "first")}) == 2
    ended = dmax(f"{command} --template_options.frist true --output other.jsonl")
    assert ended.status == 2
    assert "error: template_options: expected variables that the chat template reads, got 'frist'" in ended.err


BUSY = """
import os, signal, sys, threading
import dmaxlit.data.distill as distilling

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background process

genuine = distilling.generate_rows
def generate_rows(*args, **options):
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    while True:
        genuine(*args, **options)
distilling.generate_rows = generate_rows
from dmaxlit.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["distill", "fit"])
def test_ctrl_c_while_distilling_ends_with_130(processes, tiny, base, tmp_path, command):
    args = {
        "distill": ["distill", "--model", str(tiny), "--output", "c.jsonl", *SHORT.split()],
        "fit": ["fit", "--config", str(base), "--data.corpus", "c.jsonl", "--data.distill.num_prompts", "3"],
    }[command]
    (tmp_path / "busy.py").write_text(BUSY)
    codes = processes.run(args, tmp_path / "log", module="busy", folder=tmp_path)
    output = (tmp_path / "log").read_text()
    assert codes == [130], output
    assert "interrupted" in output.splitlines()
    assert "Traceback" not in output


def test_prompts_of_a_file_need_a_budget(dmax, tmp_path):
    (tmp_path / "p.txt").write_text("3 ?\n")
    ended = dmax("distill --model gone --prompts p.txt --output c.jsonl")
    assert ended.refusal == "max_new_tokens: expected a number, since prompts alone have no budget of their own"


def test_a_prompt_that_is_too_long_is_named_by_its_row_before_any_is_answered(dmax, tiny, tmp_path):
    (tmp_path / "p.txt").write_text("3 ?\n\n4 ?\n" + "3 " * 500 + "?\n")
    flags = f"--model {tiny} --keep all --max_new_tokens 6 --batch_size 1"
    ended = dmax(f"distill {flags} --prompts p.txt --output c.jsonl")
    assert ended.err.splitlines()[-1].startswith("error: p.txt, row 4: expected at most ")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["p.txt"]
