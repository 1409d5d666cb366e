"""A server that answers prompts: stalls, failures, garbage, order and limits, by a small server of the test's own."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dmaxlit import UserError
from dmaxlit.data.answer_server import AnswerServer
from dmaxlit.data.messages import Conversation
from dmaxlit.data.served_response import ServedResponse
from dmaxlit.errors import DMaxWarning, PromptError
from dmaxlit.tasks.prompts import TemplatedPrompt
from tests.data.fake_server import FakeServer, Reply, completion, echo, failure, running_server


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running_server() as fake:
        yield fake


def answers(server: FakeServer, prompts: list[Any], **settings: Any) -> dict[int, ServedResponse]:
    taken: dict[int, ServedResponse] = {}
    sampling = {name: settings.pop(name) for name in ("temperature", "seed", "stop") if name in settings}
    indices = settings.pop("indices", range(len(prompts)))
    client = AnswerServer(server.url, "m", **({"max_retries": 0} | settings))
    client.generate(prompts, list(indices), taken.__setitem__, max_new_tokens=16, **sampling)
    return taken


def test_each_prompt_gets_its_response_whatever_the_order(server: FakeServer) -> None:
    last = threading.Event()

    def first_comes_last(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["content"] == "a":
            last.wait(5)
            time.sleep(0.1)
        elif body["messages"][-1]["content"] == "c":
            last.set()
        return echo(body)

    server.reply = first_comes_last
    taken = answers(server, ["a", "b", "c"], concurrency=2)
    assert list(taken) == [1, 2, 0]
    assert {position: response.text for position, response in taken.items()} == {0: "A", 1: "B", 2: "C"}
    assert taken[0] == ServedResponse("A", finished=True, num_tokens=1)


def test_no_more_requests_at_the_same_time_than_allowed(server: FakeServer) -> None:
    def slow(body: dict[str, Any]) -> Reply:
        time.sleep(0.01)
        return echo(body)

    server.reply = slow
    assert len(answers(server, ["a"] * 12, concurrency=3)) == 12
    assert server.most_running == 3


def test_a_busy_server_is_asked_again_when_it_says(server: FakeServer) -> None:
    replies = [failure(429, retry_after_ms="20"), failure(503, retry_after_ms="1"), failure(500, retry_after_ms="1")]
    begin = time.monotonic()
    server.reply = lambda body: replies.pop(0) if replies else echo(body)
    assert answers(server, ["a"], max_retries=3)[0].text == "A"
    assert len(server.bodies) == 4
    assert time.monotonic() - begin >= 0.02


def test_only_a_stop_is_finished_and_forwards_are_those_of_the_server(server: FakeServer) -> None:
    reasons = {"cut": "length", "filtered": "content_filter", "whole": "stop"}
    server.reply = lambda body: completion("x", reasons[body["messages"][-1]["content"]], num_forwards=7)
    taken = answers(server, list(reasons))
    assert [taken[position].finished for position in range(3)] == [False, False, True]
    assert taken[0].num_forwards == 7


def test_what_is_sent(server: FakeServer) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    templated = TemplatedPrompt("whole", messages)
    answers(server, [messages, templated, "text"], request_options={"decoder": "spd"}, concurrency=1)
    assert [body["messages"] for body in server.bodies] == [messages, messages, [{"role": "user", "content": "text"}]]
    for body in server.bodies:
        assert {name: value for name, value in body.items() if name != "messages"} == {
            "model": "m",
            "max_tokens": 16,
            "temperature": 0.0,
            "top_p": 1.0,
            "decoder": "spd",
        }


def test_tools_are_sent_and_a_call_of_one_is_no_answer(server: FakeServer) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    turns = [{"role": "user", "content": "u"}]
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    message = {"role": "assistant", "content": "I add", "tool_calls": calls}
    server.reply = lambda body: completion("", "tool_calls", message=message) if "tools" in body else echo(body)
    taken = answers(server, [Conversation(turns, tools), Conversation(turns)], concurrency=1)
    assert [body.get("tools") for body in server.bodies] == [tools, None]
    assert [(taken[position].text, taken[position].finished) for position in (0, 1)] == [("", False), ("U", True)]


def test_a_text_to_continue_is_no_message_of_a_user(server: FakeServer) -> None:
    with pytest.raises(PromptError, match=r"^prompts\[0\]: expected a conversation for the endpoint chat, got a text"):
        answers(server, [TemplatedPrompt("Question:")])
    assert server.bodies == []


def test_stop_texts_are_sent_and_those_of_the_request_options_take_precedence(server: FakeServer) -> None:
    answers(server, ["a"], stop=("####",))
    answers(server, ["a"], stop=("####",), request_options={"stop": ["another"]})
    assert [body["stop"] for body in server.bodies] == [["####"], ["another"]]


def test_the_seed_depends_on_the_index_among_all_prompts(server: FakeServer) -> None:
    answers(server, ["a", "b"], temperature=0.5, seed=3, concurrency=1)
    answers(server, ["b"], indices=[1], temperature=0.5, seed=3)
    answers(server, ["b"], indices=[1], temperature=0.5, seed=4)
    first, second, again, other = (body["seed"] for body in server.bodies)
    assert second == again
    assert len({first, second, other}) == 3
    assert 0 <= first < 2**31


def test_texts_are_continued_by_the_endpoint_completions(server: FakeServer) -> None:
    server.reply = lambda body: (
        200,
        {},
        {
            "choices": [{"index": 0, "text": body["prompt"] + "!", "finish_reason": "stop"}],
            "usage": {"completion_tokens": 2},
        },
    )
    assert answers(server, ["a"], endpoint="completions")[0].text == "a!"
    assert server.paths == ["/v1/completions"]
    with pytest.raises(PromptError, match=r"prompts\[0\]: expected a text for the endpoint completions, got messages"):
        answers(server, [[{"role": "user", "content": "u"}]], endpoint="completions")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((200, {"content-type": "text/html"}, b"<html>\x1b[2J"), r"base_url: expected completions .* got another body"),
        ((200, {}, {}), r"base_url: expected completions .* got another body"),
        ((200, {}, b'{"choices":'), r"base_url: expected completions .* JSONDecodeError"),
        ((200, {}, {"choices": []}), r"base_url: expected completions .* got another body"),
        ((200, {}, {"choices": [{"message": {"content": "x"}}]}), r"base_url: expected completions .* another body"),
        (completion([1]), r"base_url: expected a completion with text and usage"),  # type: ignore[arg-type]
        (failure(401), r"OPENAI_API_KEY: expected the key of .*, got one that it refuses: "),
        (failure(404, "no m\x1b[2J"), r"model: expected 'm' at the base_url http.*no m\\x1b\[2J"),
        (failure(500, "oops"), r"base_url: expected completions from .*, got status 500 after 0 retries: .*oops"),
    ],
)
def test_what_a_server_may_answer_instead(server: FakeServer, reply: Reply, error: str) -> None:
    server.reply = lambda body: reply
    with pytest.raises(UserError, match=error) as caught:
        answers(server, ["a"])
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_an_address_without_its_end_is_named_not_the_model(server: FakeServer) -> None:
    server.reply = lambda body: failure(404, "Not Found")
    client = AnswerServer(server.url.removesuffix("/v1"), "m", max_retries=0)
    with pytest.raises(UserError, match=r"^base_url: expected an address up to /v1, got 'http://[\d.:]+': .*Not Found"):
        client.generate(["a"], [0], lambda *_: None, max_new_tokens=4)


def test_a_failure_ends_the_other_requests_and_keeps_what_was_answered(server: FakeServer) -> None:
    def third_fails(body: dict[str, Any]) -> Reply:
        return failure(403) if body["messages"][-1]["content"] == "c" else echo(body)

    server.reply = third_fails
    taken: dict[int, ServedResponse] = {}
    with pytest.raises(UserError, match=r"base_url: expected completions from .*, got status 403"):
        AnswerServer(server.url, "m", concurrency=1).generate(
            ["a", "b", "c", *"d" * 50], range(53), taken.__setitem__, max_new_tokens=4
        )
    assert list(taken) == [0, 1]
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_refused_has_an_empty_response_and_the_others_theirs(server: FakeServer, status: int) -> None:
    prompts = [*["long"] * 20, "a", "long", "b"]  # the longest come first

    def refuse_long(body: dict[str, Any]) -> Reply:
        return failure(status, "too \x1blong") if body["messages"][-1]["content"] == "long" else echo(body)

    server.reply = refuse_long
    with pytest.warns(DMaxWarning, match=r"^a prompt is refused by http.*: .*too \\x1blong") as caught:
        taken = answers(server, prompts, concurrency=1)
    assert [one.category for one in caught].count(DMaxWarning) == 1
    assert {position for position, response in taken.items() if response.refusal} == {*range(20), 21}
    assert (taken[0].text, taken[0].finished, taken[0].num_tokens) == ("", False, 0)
    assert (taken[20].text, taken[22].text) == ("A", "B")


def test_a_server_that_refuses_all_is_at_fault_unless_they_are_few(server: FakeServer) -> None:
    server.reply = lambda body: failure(400, "no such field")
    taken: dict[int, ServedResponse] = {}
    with pytest.raises(PromptError, match=r"^prompts\[0\]: refused by .*, as all 16 were: .*no such field"):
        AnswerServer(server.url, "m", concurrency=1).generate(
            ["a"] * 16, range(16), taken.__setitem__, max_new_tokens=4
        )
    assert taken == {}
    with pytest.warns(DMaxWarning, match="refused by"):  # which may be the last ones of a run that resumes
        assert len(answers(server, ["a"] * 15, concurrency=1)) == 15


def test_a_server_that_stalls(server: FakeServer) -> None:
    released = threading.Event()

    def stall(body: dict[str, Any]) -> Reply:
        released.wait(5)
        return echo(body)

    server.reply = stall
    with pytest.raises(UserError, match=r"timeout: expected an answer of .* within 0.05 s, got none"):
        answers(server, ["a"], timeout=0.05)
    released.set()


def test_a_tick_may_end_the_requests(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmaxlit.data.answer_server._TICK_SECONDS", 0.01)
    released = threading.Event()

    def stall(body: dict[str, Any]) -> Reply:
        released.wait(5)
        return echo(body)

    def tick(_: int) -> None:
        raise UserError("ended")

    server.reply = stall
    with pytest.raises(UserError, match="ended"):
        AnswerServer(server.url, "m").generate(["a"], [0], lambda *_: None, tick, max_new_tokens=4)
    released.set()


class TestCheck:
    """What is found before a long run."""

    def test_a_model_that_is_there(self, server: FakeServer) -> None:
        AnswerServer(server.url, "m").check()

    def test_a_model_that_is_not(self, server: FakeServer) -> None:
        with pytest.raises(UserError, match=r"model: expected a model of .*, which has m; got 'other'"):
            AnswerServer(server.url, "other").check()

    def test_a_server_without_a_list(self, server: FakeServer) -> None:
        server.models = failure(404)
        AnswerServer(server.url, "m").check()

    def test_a_refused_key(self, server: FakeServer) -> None:
        server.models = failure(401)
        with pytest.raises(UserError, match="OPENAI_API_KEY: "):
            AnswerServer(server.url, "m").check()

    def test_no_server(self, server: FakeServer) -> None:
        server.server_close()
        with pytest.raises(UserError, match=r"base_url: expected a server at http://127.0.0.1:"):
            AnswerServer(server.url, "m").check()

    def test_garbage(self, server: FakeServer) -> None:
        server.models = 200, {}, b"<html>"
        with pytest.raises(UserError, match="base_url: expected completions"):
            AnswerServer(server.url, "m").check()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"base_url": "localhost:8000"}, "base_url: expected an address such as"),
        ({"base_url": "http://x:99999/v1"}, "base_url: expected an address such as"),
        ({"base_url": "file:///etc"}, "base_url: expected an address such as"),
        ({"endpoint": "talk"}, "endpoint: expected 'chat' or 'completions', got 'talk'"),
        ({"concurrency": 0}, "concurrency: expected at least 1"),
        ({"max_retries": -1}, "max_retries: expected at least 0"),
        ({"timeout": 0}, "timeout: expected a number of seconds above 0, got 0"),
        ({"request_options": {"temperature": 1}}, "request_options: expected no temperature"),
        ({"request_options": {"tools": []}}, "request_options: expected no tools"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        AnswerServer(**({"base_url": "http://localhost/v1", "model": "m"} | settings))


def test_the_identity_has_no_password() -> None:
    identity = AnswerServer("http://me:secret@host:8000/v1/?k=1", "m").identity()
    assert identity["base_url"] == "http://host:8000/v1"
