import io
import json
import re

import pytest

import dmaxlit
from dmaxlit.tasks import ChainTask

PROMPTS = ["3 +1 +1 *3 ?", "4 -2 -2 +1 ?"]


def answers(tiny, **options):
    return dmaxlit.load(tiny).generate(PROMPTS, max_new_tokens=10, **options)


def test_prompts_from_flags_are_answered_with_tokens_forwards_and_tpf(dmax, tiny):
    ended = dmax(
        ["generate", "--model", str(tiny), "--max_new_tokens", "10", "--prompt", PROMPTS[0], "--prompt", PROMPTS[1]]
    )
    assert ended.status == 0, ended.err
    expected = answers(tiny)
    for answer in expected:
        tpf = answer.num_tokens / answer.num_forwards
        told = f"{answer.num_tokens} tokens, {answer.num_forwards} forwards, TPF {tpf:.2f}"
        assert f"> {answer.prompt}\n{answer.text}\n{told}" in ended.out
    tokens, forwards = sum(a.num_tokens for a in expected), sum(a.num_forwards for a in expected)
    assert f"2 prompts: {tokens} tokens, {forwards} forwards, TPF {tokens / forwards:.2f}" in ended.out


def test_decoder_options_are_flags(dmax, tiny):
    flags = ["--decoder", "threshold", "--decoder.threshold", "0", "--max_new_tokens", "10"]
    ended = dmax(["generate", "--model", str(tiny), *flags, "--prompt", PROMPTS[0]])
    (answer, _) = answers(tiny, decoder="threshold", threshold=0.0)
    assert f"{answer.num_tokens} tokens, {answer.num_forwards} forwards" in ended.out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "\n".join(PROMPTS) + "\n\n"),
        ("p.jsonl", "\n".join(json.dumps({"prompt": prompt, "answer": "3"}) for prompt in PROMPTS)),
        ("q.jsonl", "\n".join(json.dumps({"question": prompt}) for prompt in PROMPTS)),
        ("t.jsonl", "\n".join(map(json.dumps, PROMPTS))),
    ],
)
def test_prompts_from_files_are_answered_and_written_as_jsonl(dmax, tiny, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    ended = dmax(f"generate --model {tiny} --max_new_tokens 10 --prompts {name} --output out/a.jsonl")
    assert ended.status == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row.get("answer") for row in rows] == ["3" if name == "p.jsonl" else None] * 2
    assert [row["response"] for row in rows] == [answer.text for answer in answers(tiny)]
    assert [row["token_ids"] for row in rows] == [answer.token_ids for answer in answers(tiny)]
    assert "out/a.jsonl: 2 answers" in ended.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jsonl", "a.jsonl.manifest.json"]


def test_prompts_come_from_standard_input_where_no_other_are_given(dmax, tiny, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(PROMPTS).encode())))
    assert "2 prompts:" in dmax(f"generate --model {tiny} --max_new_tokens 10").out


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        ("", "prompts: expected at least one, found none in 'p.jsonl'"),
        ('{"prompt": "3 ?"}\n{"prompt": 3}\n', "p.jsonl, row 2: expected a text, or an object with a prompt"),
        ("nope\n", "p.jsonl, row 1: is not valid JSON"),
    ],
)
def test_a_bad_file_of_prompts_is_refused_by_row(dmax, tiny, tmp_path, content, refusal):
    (tmp_path / "p.jsonl").write_text(content)
    assert dmax(f"generate --model {tiny} --prompts p.jsonl").refusal.startswith(refusal)


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--model gone/away/x --prompt 3", "model: expected a model folder, a hub id or builtin:NAME"),
        ("--model x.ckpt --prompt 3", "model: expected a file, got 'x.ckpt' (no such file)"),
        ("--prompt 3", "the following arguments are required: model"),
        (
            "--model {tiny} --prompt 3 --prompts p.txt",
            "prompts: expected one of --prompt, --prompts and --task, got --prompt and --prompts",
        ),
        ("--model {tiny} --prompt 3 --decoder nope", "unknown decoder 'nope'; known: codila, "),
        ("--model {tiny} --prompt 3 --decoder.tau_dec 3", "tau_dec: expected a number in [0, 1], got 3"),
        ("--model {tiny} --prompt 3 --temperature=-1", "temperature: expected a number from 0 to 10000, got -1.0"),
        ("--model {tiny} --prompt 3 --trace --output a", "trace: expected no --output with it"),
        ("--model {tiny} --prompt 3 --trace t.txt", "trace: expected a file that ends in .html, got 't.txt'"),
        ("--model {tiny} --prompt 3 --trace no/t.html", "trace: expected a file in a folder that exists"),
        ("--model {tiny} --prompt 3 --trace t.html --output a", "trace: expected no --output with it"),
        ("--model {tiny} --prompt 3 --trace_file no/t", "trace_file: expected a file in a folder that exists"),
        (
            "--model {tiny} --prompts p.txt --output ./p.txt",
            "output: expected another file than --prompts, got",
        ),
        ("--model {tiny} --prompts . --output a.jsonl", "output: expected a file that --prompts '.' does not read too"),
        ("--model {tiny} --prompts p.txt --trace_file p.txt", "trace_file: expected another file than --prompts, got"),
        ("--model m.ckpt --prompt 3 --trace_file m.ckpt", "trace_file: expected another file than --model, got"),
        ("--model {tiny} --prompt 3 --trace x.html --trace_file x.html", "trace: expected another file than --trace_"),
        ("--model {tiny} --prompt 3 --max_new_tokens 0", "max_new_tokens: expected at least 1, got 0"),
        (
            "--model {tiny} --prompt 3 --decoder threshold --decoder.threshold abc",
            "threshold: expected float, got 'abc'",
        ),
        ("--model {tiny} --prompt 3 --decoder psd --decoder.depth 1.5", "depth: expected int, got 1.5"),
        (
            "--model {tiny} --prompt 3 --decoder less --decoder.patience 1000000000000000000000",
            "patience: expected int, got a number beyond 64 bits",
        ),
        ("--model {tiny} --prompt 3 --columns.prompt q", "columns: expected none without --prompts, got some"),
        (
            "--model {tiny} --prompts p.txt --columns.prompt q",
            "columns: expected prompts in a .jsonl, .json or .parquet",
        ),
        ("--model {tiny} --prompts ''", "prompts: expected a file, got an empty text"),
        (
            "--model {tiny} --prompts '' --task chain",
            "prompts: expected one of --prompt, --prompts and --task, got --pro",
        ),
        ("--model {tiny} --prompts '' --devices 2 --output a", "prompts: expected a file, got an empty text"),
        ("--model {tiny} --task nope", "unknown task 'nope'; known: asdiv, chain, "),
        ("--model {tiny} --prompt 3 --task.operations 3", "task_options: expected none without --task"),
        ("--model {tiny} --task chain --num_prompts 0", "num_prompts: expected at least 1, got 0"),
        ("--model {tiny} --prompt 3 --batch_size many", "batch_size: expected int, got 'many'"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, tiny, flags, refusal):
    assert dmax(f"generate {flags.format(tiny=tiny)}").refusal.startswith(refusal)


def test_a_prompt_longer_than_the_context_is_refused(dmax, tiny):
    assert "128" in dmax(["generate", "--model", str(tiny), "--prompt", "3 " * 200]).refusal


def test_a_task_s_test_prompts_are_answered_and_judged(dmax, tiny, tmp_path):
    line = f"generate --model {tiny} --max_new_tokens 10 --task chain --task.operations 3 --num_prompts 3"
    ended = dmax(line)
    assert ended.status == 0, ended.err
    assert ended.out.count(", wrong") + ended.out.count(", right\n") == 3
    assert "3 prompts, 0 right:" in ended.out
    ended = dmax(f"{line} --output a.jsonl")
    rows = [json.loads(text) for text in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [
        e.prompt for e in dmaxlit.task("chain", operations=3).examples("test", 3)
    ]
    assert not any(row["correct"] for row in rows)


def test_all_prompts_of_a_task_that_has_fewer_are_answered(dmax, tiny, tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(f'{{"prompt": "{n} ?", "answer": "{n}"}}\n' for n in range(3)))
    line = f"generate --model {tiny} --max_new_tokens 10 --task jsonl"
    assert "3 prompts, 0 right" in dmax(f"{line} --task.test q.jsonl").out
    refusal = dmax(f"{line} --task.test q.jsonl --num_prompts 4").refusal
    assert refusal == "num_prompts: expected at most the 3 test prompts of 'q.jsonl', got 4"
    assert dmax(f"{line} --task.train q.jsonl").refusal == "task: expected test prompts, found none"
    refusal = dmax(f"{line} --task.train q.jsonl --num_prompts 4").refusal
    assert refusal == "num_prompts: expected at most the 0 test prompts without a file for test, got 4"


def test_sampling_and_stop_texts_are_flags(dmax, tiny):
    line = ["generate", "--model", str(tiny), "--prompt", PROMPTS[0], "--max_new_tokens", "10", "--temperature", "3"]
    first, again, other = dmax(line).out, dmax(line).out, dmax([*line, "--seed", "1"]).out
    assert first == again != other
    text = answers(tiny)[0].text
    stop = text.split()[-1]
    ended = dmax(["generate", "--model", str(tiny), "--prompt", PROMPTS[0], "--max_new_tokens", "10", "--stop", stop])
    assert f"\n{text[: text.index(stop)]}\n" in ended.out


def test_budget_and_stop_texts_are_those_of_the_task_that_is_asked(dmax, tiny, tmp_path, monkeypatch):
    def rows(flags):
        line = f"generate --model {tiny} --task chain {flags} --num_prompts 4 --output a.jsonl --overwrite true"
        assert dmax(line).status == 0
        return [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]

    monkeypatch.setattr(ChainTask, "max_new_tokens", 10)
    whole = rows("")
    assert [row["num_tokens"] for row in whole] == [10] * 4
    assert [row["num_tokens"] for row in rows("--max_new_tokens 7")] == [7] * 4
    stop = whole[0]["response"].split()[4]
    monkeypatch.setattr(ChainTask, "stop", (stop,))
    assert rows("")[0]["response"] == whole[0]["response"].partition(stop)[0]
    assert rows("")[0]["stopped"]
    assert rows("--stop another") == whole


def test_a_chat_template_and_its_variables_are_flags(dmax, tiny, tmp_path):
    template = "{% if hidden %}" + PROMPTS[1] + "{% else %}{{ messages[0].content }}{% endif %}"
    (tmp_path / "t.jinja").write_text(template)
    expected = answers(tiny)
    command = f"generate --model {tiny} --max_new_tokens 10 --chat_template t.jinja"
    for flag, answer in [("", expected[0]), ("--template_options.hidden true", expected[1])]:
        ended = dmax([*command.split(), *flag.split(), "--prompt", PROMPTS[0]])
        assert f"> {PROMPTS[0]}\n{answer.text}\n" in ended.out, ended.err
    ended = dmax([*command.split(), "--template_options.hiden", "true", "--prompt", PROMPTS[0]])
    assert ended.status == 2
    assert "error: template_options: expected variables that the chat template reads, got 'hiden'" in ended.err


def test_a_trace_shows_every_forward_and_is_written(dmax, tiny, tmp_path):
    flags = ["--max_new_tokens", "10", "--trace", "--trace_file", "t.safetensors", "--prompt", PROMPTS[0]]
    ended = dmax(["generate", "--model", str(tiny), *flags])
    assert ended.status == 0, ended.err
    (answer, _) = answers(tiny)
    assert f"{answer.num_tokens} tokens in {answer.num_forwards} forwards" in ended.out
    assert f"\n{answer.num_forwards:4} " in ended.out
    assert list(dmaxlit.engine.Trace.load(tmp_path / "t.safetensors").rows) == [0]


def test_a_trace_is_written_as_a_page(dmax, tiny, tmp_path):
    flags = ["--max_new_tokens", "10", "--trace", "t.html", "--prompt", PROMPTS[0], "--decoder.tau_dec", "0.3"]
    ended = dmax(["generate", "--model", str(tiny), *flags])
    assert ended.status == 0, ended.err
    assert "forwards" in ended.out
    assert "masked" not in ended.out  # the legend of a trace in the terminal
    text = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "<title>Trace: spd tau_dec=0.3</title>" in text
    assert f'"prompt":"{PROMPTS[0]}"' in text


def test_a_trace_is_kept_as_far_as_it_had_come(dmax, tiny, tmp_path, monkeypatch):
    events, genuine = [], dmaxlit.engine.Trace.record

    def record(self, event):
        genuine(self, event)
        events.append(event)
        if len(events) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(dmaxlit.engine.Trace, "record", record)
    flags = ["--max_new_tokens", "10", "--trace", "t.html", "--trace_file", "t.safetensors", "--prompt", PROMPTS[0]]
    assert dmax(["generate", "--model", str(tiny), *flags, "--decoder", "one_token"]).status == 130
    trace = dmaxlit.engine.Trace.load(tmp_path / "t.safetensors")
    assert (trace.rows[0].num_forwards, trace.prompts[0]) == (3, PROMPTS[0])
    assert f'"prompt":"{PROMPTS[0]}"' in (tmp_path / "t.html").read_text(encoding="utf-8")


LONG = "3 " * 500 + "?"


@pytest.mark.parametrize("output", ["", "--output out/a.jsonl"])
def test_a_prompt_that_is_too_long_is_named_by_its_row_before_any_is_answered(dmax, tiny, tmp_path, output):
    (tmp_path / "p.jsonl").write_text("\n\n".join(json.dumps({"prompt": p}) for p in [*PROMPTS * 4, LONG]))
    ended = dmax(f"generate --model {tiny} --max_new_tokens 10 --batch_size 2 --prompts p.jsonl {output}")
    assert ended.err.splitlines()[-1].startswith("error: p.jsonl, row 17: expected at most ")
    assert ended.status == 2
    assert ended.out == ""
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["p.jsonl"]


def test_a_prompt_that_is_too_long_is_named_among_flags(dmax, tiny):
    ended = dmax(["generate", "--model", str(tiny), "--prompt", "3 ?", "--prompt", LONG])
    assert ended.refusal.startswith("prompts[1]: expected at most ")


@pytest.mark.parametrize("flag", ["prompt", "stop"])
def test_bytes_of_the_command_line_that_are_no_text_are_refused(dmax, tiny, flag):
    flags = ["--prompt", "3 ?", f"--{flag}", b"caf\xe9".decode(errors="surrogateescape")]
    name = "prompts[1]" if flag == "prompt" else "stop"
    ended = dmax(["generate", "--model", str(tiny), "--max_new_tokens", "10", *flags])
    assert ended.refusal == f"{name}: expected text that UTF-8 can encode, got a lone surrogate (\\udce9)"


def test_answers_are_printed_in_order_as_soon_as_they_are_finished(dmax, tiny, monkeypatch, capsys):
    """Also where a later prompt is finished first; what comes after a kill is all that is lost."""
    genuine, seen = dmaxlit.DMaxModule.generate_batch, []

    def generate_batch(module, prompts, settings, *args, on_response, **options):
        responses = genuine(module, prompts, settings, *args, **options)
        for index in (1, 0, 2):
            on_response(index, responses[index])
            seen.append(re.findall("^> (.*)$", capsys.readouterr().out, re.MULTILINE))
        raise KeyboardInterrupt

    monkeypatch.setattr(dmaxlit.DMaxModule, "generate_batch", generate_batch)
    prompts = [*PROMPTS, "1 +1 +1 +1 ?"]
    flags = [flag for prompt in prompts for flag in ("--prompt", prompt)]
    ended = dmax(["generate", "--model", str(tiny), "--max_new_tokens", "10", *flags])
    assert ended.status == 130
    assert seen == [[], prompts[:2], prompts[2:]]


def test_a_bar_shows_the_prompts_on_a_terminal_only(dmax, tiny, monkeypatch):
    line = ["generate", "--model", str(tiny), "--max_new_tokens", "10", "--prompt", PROMPTS[0], "--prompt", PROMPTS[1]]
    assert "prompt/s" not in dmax(line).err
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    ended = dmax(line)
    assert "2 prompts:" in ended.out
    assert "prompt" in terminal.getvalue()


def test_columns_of_a_file_of_prompts_may_have_other_names(dmax, tiny, tmp_path):
    rows = [{"id": 1, "task": "3 +1 +1", "data": "*3 ?"}, {"id": 2, "task": PROMPTS[1], "data": ""}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = "--prompts p.jsonl --columns.instruction task --columns.input data --output a.jsonl"
    ended = dmax(f"generate --model {tiny} --max_new_tokens 10 {flags}")
    assert ended.status == 0, ended.err
    written = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in written] == ["3 +1 +1\n*3 ?", PROMPTS[1]]
    assert [row["id"] for row in written] == [1, 2]


TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
DIALOGUE = [
    {"role": "system", "content": "1"},
    {"role": "user", "content": PROMPTS[1]},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": PROMPTS[0]},
]


@pytest.fixture
def dialogues(tmp_path):
    rows = [{"id": 1, "messages": DIALOGUE[:2]}, {"id": 2, "messages": DIALOGUE}, {"id": 3, "prompt": PROMPTS[0]}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    return [DIALOGUE[:2], DIALOGUE, PROMPTS[0]]


def test_a_row_of_messages_is_answered_as_in_python(dmax, tmp_path, dialogues):
    model = dmaxlit.load("builtin:chain-base")
    model.tokenizer.chat_template = TEMPLATE
    expected = model.generate(dialogues, max_new_tokens=10)
    assert len({tuple(answer.token_ids) for answer in expected}) == 3
    command = "generate --model builtin:chain-base --max_new_tokens 10 --chat_template t.jinja --prompts p.jsonl"
    assert dmax(f"{command} --output a.jsonl").status == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["token_ids"] for row in rows] == [answer.token_ids for answer in expected]
    assert [row["prompt"] for row in rows] == dialogues
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert f"> system: 1\n> user: {PROMPTS[1]}\n{expected[0].text}\n" in dmax(command).out


def test_a_row_of_messages_that_the_template_refuses_is_named(dmax, tiny, tmp_path, dialogues):
    refusing = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + TEMPLATE
    (tmp_path / "t.jinja").write_text(refusing)
    flags = "--max_new_tokens 10 --chat_template t.jinja --prompts p.jsonl --output a.jsonl"
    ended = dmax(f"generate --model {tiny} {flags}")
    assert ended.err.splitlines()[-1].startswith("error: p.jsonl, row 2: chat template: cannot be applied to the")
    assert not list(tmp_path.glob("a.jsonl*"))


@pytest.mark.parametrize("command", ["generate", "distill --keep all"])
def test_prompts_that_are_not_asked_for_are_not_looked_at(dmax, tiny, tmp_path, dialogues, command):
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"messages": turns}) for turns in (DIALOGUE[-1:], DIALOGUE)))
    flags = "--max_new_tokens 10 --prompts p.jsonl --num_prompts 1 --output a.jsonl"
    ended = dmax(f"{command} --model {tiny} {flags}")
    assert ended.status == 0, ended.err


@pytest.mark.parametrize("command", ["generate", "distill --keep all"])
def test_messages_need_a_chat_template(dmax, tiny, tmp_path, dialogues, command):
    ended = dmax(f"{command} --model {tiny} --max_new_tokens 10 --prompts p.jsonl --output a.jsonl")
    assert ended.refusal == "p.jsonl, row 1: expected a model with a chat template for a conversation, got one without"
    assert not list(tmp_path.glob("a.jsonl*"))
    (tmp_path / "p.jsonl").write_text(json.dumps({"messages": DIALOGUE[-1:]}))  # one text, whose role is no matter
    assert dmax(f"{command} --model {tiny} --max_new_tokens 10 --prompts p.jsonl --output a.jsonl").status == 0
