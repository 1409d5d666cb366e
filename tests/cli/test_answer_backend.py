"""``distill --backend openai`` against a server of the tests."""

import json

import pytest

import dmaxlit
from dmaxlit.errors import DMaxWarning
from tests.data.fake_server import completion, failure, running_server

FLAGS = "--output c.jsonl --prompts p.jsonl --max_new_tokens 8"


@pytest.fixture
def server():
    with running_server() as fake:
        yield fake


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "p{number}"}}\n' for number in range(6)))


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_server_answers_the_prompts_of_a_file(dmax, server, prompts, tmp_path):
    server.reply = lambda body: completion(
        f"to {body['messages'][0]['content']}", "length" if body["messages"][0]["content"] == "p2" else "stop"
    )
    ended = dmax(f"distill --backend openai --base_url {server.url} --model m {FLAGS}")
    assert ended.status == 0, ended.err
    assert rows(tmp_path / "c.jsonl") == [{"prompt": f"p{i}", "response": f"to p{i}"} for i in (0, 1, 3, 4, 5)]
    manifest = json.loads((tmp_path / "c.jsonl.manifest.json").read_text())
    expected = {"base_url": server.url, "model": "m", "endpoint": "chat", "request_options": {}}
    assert manifest["settings"]["server"] == expected
    assert "decoder" not in manifest["settings"]
    assert manifest["tpf"] is None
    assert manifest["dropped"]["unfinished"] == 1
    assert "kept 5 of 6 answers; 5 finished; " in ended.out
    assert "TPF" not in ended.out


@pytest.mark.parametrize("keep", ["finished", "all"])
def test_a_prompt_that_the_server_refuses_is_dropped(dmax, server, prompts, tmp_path, keep):
    server.reply = lambda body: (
        failure(400, "too long") if body["messages"][0]["content"] == "p2" else completion("yes", "stop")
    )
    with pytest.warns(DMaxWarning, match="^a prompt is refused by .*too long"):
        ended = dmax(f"distill --backend openai --base_url {server.url} --model m --keep {keep} {FLAGS}")
    assert ended.status == 0, ended.err
    assert [row["prompt"] for row in rows(tmp_path / "c.jsonl")] == ["p0", "p1", "p3", "p4", "p5"]
    dropped = json.loads((tmp_path / "c.jsonl.manifest.json").read_text())["dropped"]
    assert {reason: count for reason, count in dropped.items() if count} == {"refused": 1}
    assert "kept 5 of 6 answers; 5 finished; 1 refused; " in ended.out


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_prompts_that_come_last_may_all_be_refused(dmax, server, tmp_path, is_interrupted):
    texts = [*(f"p{number}" for number in range(64)), *["long"] * 20]  # in two chunks of batches of one
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "{text}"}}\n' for text in texts))
    command = f"distill --backend openai --base_url {server.url} --model m {FLAGS} --batch_size 1"
    status = 403 if is_interrupted else 400
    server.reply = lambda body: (
        failure(status, "too long") if body["messages"][0]["content"] == "long" else completion("yes", "stop")
    )
    if is_interrupted:
        assert dmax(command).status == 2
        status = 400
    with pytest.warns(DMaxWarning, match="^a prompt is refused by .*too long"):
        ended = dmax(command)
    assert ended.status == 0, ended.err
    assert "kept 64 of 84 answers; 64 finished; 20 refused; " in ended.out


def test_a_task_and_its_checker(dmax, server, tmp_path):
    examples = dmaxlit.task("chain").examples("train", 4)
    right = {example.prompt: example.response for example in examples[1:]}
    server.reply = lambda body: completion(right.get(body["messages"][0]["content"], "#### x"))
    flags = "--task chain --num_prompts 4 --keep correct --output c.jsonl"
    ended = dmax(f"distill --backend openai --base_url {server.url} --model m {flags}")
    assert ended.status == 0, ended.err
    assert [row["prompt"] for row in rows(tmp_path / "c.jsonl")] == [example.prompt for example in examples[1:]]


def test_it_resumes_after_a_failure_and_repeats_nothing(dmax, server, prompts, tmp_path):
    answered = []

    def fails_once(body):
        prompt = body["messages"][0]["content"]
        if prompt == "p0" and "failed" not in answered:
            answered.append("failed")
            return failure(500)
        answered.append(prompt)
        return completion(prompt)

    server.reply = fails_once
    command = f"distill --backend openai --base_url {server.url} --model m --max_retries 0 --concurrency 1 {FLAGS}"
    ended = dmax(command)
    assert ended.status == 2
    assert ended.err.strip().endswith("Error code: 500 - no")
    assert not (tmp_path / "c.jsonl").exists()
    assert dmax(command).status == 0
    assert [row["prompt"] for row in rows(tmp_path / "c.jsonl")] == [f"p{number}" for number in range(6)]
    assert len(answered) == 7


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ("--decoder spd", "decoder: expected none with the backend openai, got 'spd'"),
        ("--dtype bfloat16", "dtype: expected none with the backend openai"),
        ("--devices 2", "devices: expected none with the backend openai, got 2"),
        ("--model other", "model: expected a model of http://127.0.0.1:"),
        ("--request_options.seed 1", "request_options: expected no seed"),
        ("--concurrency 0", "concurrency: expected at least 1"),
    ],
)
def test_what_a_server_cannot_be_asked(dmax, server, prompts, flags, error):
    ended = dmax(f"distill --backend openai --base_url {server.url} --model m {FLAGS} {flags}")
    assert error in ended.refusal


def test_what_is_missing(dmax, prompts, server):
    ended = dmax(f"distill --backend openai --model m {FLAGS}")
    assert ended.refusal.endswith("base_url: expected the address of a server for the backend openai, got none")
    ended = dmax(f"distill --backend openai --model m --base_url {server.url} --output c.jsonl")
    assert "task: expected a task or a file of prompts for the backend openai, got neither" in ended.refusal
    ended = dmax(f"distill --backend openai --model m --base_url {server.url} --output c.jsonl --prompts p.jsonl")
    assert "max_new_tokens: expected a number" in ended.refusal


def test_settings_of_a_server_need_the_backend(dmax, prompts):
    ended = dmax(f"distill --model builtin:chain-base --base_url http://x/v1 {FLAGS}")
    assert ended.refusal.startswith("base_url: expected none with the backend model, got 'http://x/v1'")
