"""What cannot be answered is refused in one line, with OpenAI's error body and a status that says whose fault it is."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from dmaxlit.decoding import DECODERS, make_decoder
from dmaxlit.engine import DecodeSettings
from dmaxlit.server import Limits, intake
from dmaxlit.server.request_settings import check_size, check_steps
from dmaxlit.server.trial import ForwardSize, forward_size
from dmaxlit.tasks.prompts import TemplatedPrompt
from tests.server.running import NAME, PATIENCE, PROMPT, Gate, running, wait_for

LIMITS = Limits(
    batch_size=2,
    max_waiting=1,
    max_responses=4,
    max_tokens=50,
    max_length=60,
    max_window=2,
    max_body=4000,
    max_seconds=30,
)
BODY = {"prompt": PROMPT}
CHAT = {"messages": [{"role": "user", "content": "7 ?"}]}


@pytest.fixture(scope="module")
def strict(module):
    """A server with narrow limits."""
    with running(module, LIMITS) as run:
        yield run


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "prompt: field required"),
        ({"prompt": []}, "prompt", "prompt: expected at least one, got an empty list"),
        ({"prompt": 7}, "prompt", "got int"),
        ({"prompt": [1, "7"]}, "prompt", "prompt"),
        ({"prompt": [True]}, "prompt", "prompt"),
        ({"prompt": [99999]}, "prompt", "prompts[0]: expected token ids from 0 to 37, got 99999 to 99999"),
        ({"prompt": [[1], [-1]]}, "prompt", "prompts[1]: expected token ids from 0 to 37, got -1 to -1"),
        ({"prompt": "\ud83d"}, "prompt", "lone surrogate"),
        (BODY | {"temperature": -1}, "temperature", "temperature: expected a number from 0 to 10000, got -1.0"),
        (BODY | {"temperature": "hot"}, "temperature", "got str"),
        (BODY | {"top_p": 0}, "top_p", "top_p: expected a number above 0 and at most 1, got 0.0"),
        (BODY | {"max_tokens": 0}, "max_tokens", "greater than or equal to 1, got 0"),
        (BODY | {"max_tokens": 51}, "max_tokens", "max_tokens: expected at most 50, got 51"),
        (BODY | {"max_tokens": 1.5}, "max_tokens", "got float"),
        (BODY | {"max_tokens": 10**30}, "max_tokens", "max_tokens: input should be less than"),
        (BODY | {"n": 5}, "n", "n: expected at most 3 responses to be asked for, got 5"),
        (BODY | {"seed": 2**63}, "seed", "seed"),
        (BODY | {"stop": [""]}, "stop", "stop: expected a list of texts, none of them empty"),
        (BODY | {"stop": ["a"] * 17}, "stop", "stop: expected at most 16 texts, got 17"),
        (BODY | {"stop": "a" * 1001}, "stop", "stop: expected at most 1000 characters in a text, got 1001"),
        (BODY | {"decoder": "os.system"}, "decoder", "decoder: expected a registered name, got 'os.system'"),
        (BODY | {"decoder": "spdd"}, "decoder", "decoder: expected a registered name, got 'spdd'"),
        (BODY | {"decoder_options": {"tau": 1}}, None, "decoder 'spd': unknown option tau"),
        (BODY | {"decoder_options": {"tau_dec": "x"}}, "tau_dec", "tau_dec"),
        (BODY | {"decoder_options": {"top_k": 1000}}, "top_k", "top_k: expected less than the vocabulary's"),
        (
            BODY | {"decoder": "less", "decoder_options": {"top_k": 257}},
            "top_k",
            "top_k: expected at most 256, got 257",
        ),
        (BODY | {"window": 3}, "window", "window: expected at most 2, got 3"),
        (BODY | {"window": 2, "decoder": "wino"}, "window", "window: expected 1 for decoder WinoDecoder"),
        (BODY | {"window": 2, "admission": "a.b"}, "admission", "admission: expected a registered name, got 'a.b'"),
        (BODY | {"admission": "converging"}, "admission", "admission: expected a window of at least 2"),
        (BODY | {"admission_options": {"theta": 0.1}}, "admission", "admission: expected a window of at least 2"),
        (BODY | {"stream_options": {}}, "stream_options", "stream_options: expected none without stream"),
        (BODY | {"stream": True, "return_token_ids": True}, "return_token_ids", "expected false with stream"),
        (BODY | {"echo": True}, "echo", "echo: expected none (it is not supported), got True"),
        (BODY | {"logprobs": 0}, "logprobs", "logprobs: expected none (it is not supported), got 0"),
        (BODY | {"tau_dec": 0.5}, "tau_dec", "tau_dec: extra inputs are not permitted"),
        ({"prompt": "7 " * 60}, "prompt", "prompts[0]: expected at most 59 tokens (the context holds 60), got 60"),
    ],
)
def test_completions(strict, body, param, message):
    status, error = strict.refusal(json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("decoder", "options", "steps"),
    [
        ("spd", {"max_steps": 2**62}, 2**62),
        ("edit", {"max_post_edit_steps": 25}, 33),
        ("codila_verify", {"schedule_options": {"max_steps": 33}}, 33),
    ],
)
def test_a_decoder_that_may_hold_its_place_for_long(strict, decoder, options, steps):
    status, error = strict.refusal(BODY | {"decoder": decoder, "decoder_options": options})
    assert (status, error["param"]) == (400, "decoder_options")
    assert error["message"] == f"decoder_options: expected at most 32 forwards for one block, got {steps}"


@pytest.mark.parametrize("block_length", [1, 8, 32])
@pytest.mark.parametrize("name", list(DECODERS))
def test_what_decoders_take_by_default_is_granted(name, block_length):
    check_steps(make_decoder(name), block_length, own=1)


def test_what_the_server_s_own_decoder_may_take_is_granted(module):
    with running(module, defaults=DecodeSettings(decoder_options={"max_steps": 40}, max_new_tokens=8)) as server:
        assert server.complete(PROMPT).num_forwards <= 40
        assert server.complete(PROMPT, decoder="threshold", decoder_options={"max_steps": 40}).text
        status, _ = server.refusal(BODY | {"decoder_options": {"max_steps": 41}})
        assert status == 400


@pytest.mark.parametrize(
    ("decoder", "options", "message"),
    [
        ("psd", {"depth": 9}, "decoder_options: expected at most 8 extra versions of a block, got 9"),
        ("psd", {"depth": 256}, "decoder_options: expected at most 8 extra versions of a block, got 256"),
        ("spd", {"top_k": 16}, "decoder_options: expected at most 16 tokens mixed at a position, got 17"),
        ("spd", {"top_k": 37, "soft": "slerp"}, "decoder_options: expected at most 16 tokens mixed at a position, got"),
    ],
)
def test_a_decoder_that_makes_forwards_large(strict, decoder, options, message):
    status, error = strict.refusal(BODY | {"decoder": decoder, "decoder_options": options})
    assert (status, error["param"]) == (400, "decoder_options")
    assert error["message"].startswith(message)


def test_the_largest_forwards_are_granted(strict):
    for decoder, options in (("psd", {"depth": 8}), ("spd", {"top_k": 15}), ("spd", {"top_k": 37, "soft": False})):
        assert strict.complete(PROMPT, max_tokens=4, decoder=decoder, decoder_options=options).token_ids


def test_what_the_server_s_own_decoder_makes_of_a_forward_is_granted(module):
    limits = Limits(max_extra_blocks=1, max_mixed_tokens=1)
    for decoder, option, most in (("psd", "depth", 3), ("spd", "top_k", 2)):
        with running(module, limits, DecodeSettings(decoder, {option: most}, max_new_tokens=4)) as server:
            assert server.complete(PROMPT).token_ids
            assert server.complete(PROMPT, decoder_options={option: most - 1}).token_ids
            status, _ = server.refusal(BODY | {"decoder_options": {option: most + 1}})
            assert status == 400


@pytest.mark.parametrize("name", list(DECODERS))
def test_what_decoders_make_of_a_forward_by_default_is_granted(module, name):
    size = forward_size(DecodeSettings(name).make_engine(module.backbone))
    check_size(size, Limits(), own=ForwardSize(0, 1))


def test_a_budget_is_cut_to_what_the_longest_length_leaves(strict, module):
    prompt = "7 " * 40
    expected = module.generate([TemplatedPrompt(prompt)], max_new_tokens=20)[0]
    assert expected.num_tokens == 20
    for budget in ({}, {"max_tokens": 50}):
        assert strict.complete(prompt, **budget).token_ids == expected.token_ids


def test_a_decoder_named_by_an_option_is_not_imported(strict, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "decoder_of_theirs.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w').close()\n")
    inner = {"schedule": "decoder_of_theirs.Hasty"}
    for options in (inner, {"schedule": "codila_verify", "schedule_options": inner}):
        status, error = strict.refusal(BODY | {"decoder": "codila_verify", "decoder_options": options})
        assert (status, error["param"]) == (400, "schedule")
        assert error["message"].startswith(
            "schedule: expected a registered decoder, got 'decoder_of_theirs.Hasty'; known: "
        )
    assert not (tmp_path / "it_ran").exists()


def test_a_decoder_whose_auxiliary_model_is_missing(strict, monkeypatch):
    monkeypatch.setitem(strict.module.backbone._modules, "auxiliary", None)
    status, error = strict.refusal(BODY | {"decoder": "codila"})
    assert status == 400
    assert error["message"].startswith("decoder codila: expected a model with an auxiliary model")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"messages": []}, "messages", "expected at least one message"),
        ({"messages": [{"content": "7"}]}, "messages", "expected a message with role and content"),
        ({"messages": ["7"]}, "messages", "messages.0"),
        (
            {"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "7"}]},
            "messages",
            "expected a model with a chat template",
        ),
        (CHAT | {"tools": [{"type": "function"}]}, "tools", "tools: expected none"),
        (CHAT | {"response_format": {"type": "json_object"}}, "response_format", "response_format: expected none"),
        (CHAT | {"max_tokens": 2, "max_completion_tokens": 2}, "max_completion_tokens", "got both"),
        (CHAT | {"max_completion_tokens": 51}, "max_completion_tokens", "expected at most 50, got 51"),
    ],
)
def test_chats(strict, body, param, message):
    status, error = strict.refusal(body, "/v1/chat/completions")
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]


@pytest.mark.parametrize("sent", [None, "application/x-www-form-urlencoded"])
def test_a_body_that_does_not_say_that_it_is_json(strict, sent):
    headers = {} if sent is None else {"Content-Type": sent}
    status, error = strict.refusal(json.dumps(BODY).encode(), headers=headers)
    assert (status, error["param"]) == (400, None)
    expected = "body: expected JSON with the header Content-Type: application/json, got "
    assert error["message"] == expected + ("none" if sent is None else repr(sent))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_lone_surrogates_come_back_as_escapes(strict, path):
    body = BODY if path == "/v1/completions" else CHAT
    content = json.dumps(body | {"decoder_options": {"\ud800": 1}}).encode()
    status, error = strict.refusal(content, path, headers={"Content-Type": "application/json"})
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert r"\ud800" in error["message"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b'{"prompt": "7", "n": }', b"\xff\xfe", b"[" * 1500, b'{"temperature": NaN}']
)
def test_bodies_that_are_no_request(strict, content):
    status, error = strict.refusal(content, headers={"Content-Type": "application/json"})
    assert (status, error["type"]) == (400, "invalid_request_error")


def test_bodies_that_are_too_large(strict):
    status, error = strict.refusal({"prompt": "7 " * 4000})
    assert (status, error["code"]) == (413, "request_too_large")
    chunks = (b"7" * 500 for _ in range(20))  # of a length that is not stated
    status, error = strict.refusal(chunks, headers={"Content-Type": "application/json"})
    assert (status, error["code"]) == (413, "request_too_large")


def test_paths_methods_and_models_that_are_not_there(strict):
    assert strict.http.get("/v2").json()["error"]["code"] == "not_found"
    assert strict.http.get("/v1/completions").status_code == 405
    status, error = strict.refusal(BODY | {"model": "gpt-4"})
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


def test_a_request_that_fails_unexpectedly_is_counted(strict, monkeypatch):
    def fail(*args):
        raise RuntimeError("a fault of ours")

    name = 'dmaxlit_http_requests_total{path="/v1/completions",status="500"}'
    monkeypatch.setattr(strict.service, "answer", fail)
    before = strict.metric(name)
    status, error = strict.refusal(BODY)
    assert (status, error["code"]) == (500, "internal_error")
    assert strict.metric(name) == before + 1


def test_a_full_queue(strict, module, monkeypatch):
    gate = Gate(module, monkeypatch)
    gate.close()
    try:
        streams = [strict.client.completions.create(model=NAME, prompt=PROMPT, stream=True) for _ in range(3)]
        scheduler = strict.service.scheduler
        wait_for(lambda: scheduler.num_running + scheduler.num_waiting == 3)
        with pytest.raises(openai.RateLimitError, match="The server is busy: 1 responses wait already") as refusal:
            strict.complete("8 ?")
        assert refusal.value.response.headers["Retry-After"] == "1"
    finally:
        gate.open()
    texts = ["".join(chunk.choices[0].text for chunk in stream) for stream in streams]
    assert texts == [strict.complete(PROMPT).text] * 3


def test_prompts_that_are_being_encoded_wait_too(module, monkeypatch):
    may_encode = threading.Event()
    encode = intake.encode
    monkeypatch.setattr(intake, "encode", lambda *args: may_encode.wait(PATIENCE) and encode(*args))
    with (
        running(module, Limits(batch_size=1, max_waiting=2)) as server,
        ThreadPoolExecutor() as clients,
    ):
        try:
            answers = [clients.submit(server.complete, PROMPT, max_tokens=4, n=n) for n in (1, 2)]
            wait_for(lambda: server.service.scheduler.num_waiting == 3)
            assert server.http.get("/health").json() == {"status": "ok", "running": 0, "waiting": 3}
            with pytest.raises(openai.RateLimitError, match="The server is busy: 2 responses wait already"):
                server.complete(PROMPT)
        finally:
            may_encode.set()
        assert len({answer.result().text for answer in answers}) == 1
        assert server.service.scheduler.num_waiting == 0


def test_prompts_that_take_too_long_to_encode(module, monkeypatch):
    may_encode, encoded, encode = threading.Event(), [], intake.encode
    monkeypatch.setattr(
        intake, "encode", lambda *args: encoded.append(args) or (may_encode.wait(PATIENCE) and encode(*args))
    )
    with running(module, Limits(max_seconds=0.1)) as server, ThreadPoolExecutor() as clients:
        try:
            for refusal in [clients.submit(server.refusal, BODY) for _ in range(2)]:
                status, error = refusal.result()
                assert (status, error["code"]) == (503, "timeout")
        finally:
            may_encode.set()
        server.http.post("/v1/completions", json=BODY)
        assert len(encoded) <= 2  # nobody waited for the second


def test_what_would_only_fail_again_is_not_asked_for_again(module, monkeypatch):
    Gate(module, monkeypatch, delay=0.05)
    with running(module, Limits(max_seconds=0.12)) as server:
        patient = server.client.with_options(max_retries=2).completions
        name = 'dmaxlit_http_requests_total{path="/v1/completions",status="%d"}'
        with pytest.raises(openai.InternalServerError, match=r"not complete within the 0.12 seconds"):
            patient.create(model=NAME, prompt=PROMPT, max_tokens=100)
        assert server.metric(name % 503) == 1
        for owner, method in ((module.backbone, "hidden"), (server.service, "answer")):  # in the engine, and outside
            before = server.metric(name % 500)
            with monkeypatch.context() as patch:
                patch.setattr(owner, method, lambda *args, **named: 1 / 0)
                with pytest.raises(openai.InternalServerError, match="The server failed to decode the response"):
                    patient.create(model=NAME, prompt=PROMPT)
            assert server.metric(name % 500) == before + 1


def test_responses_that_take_too_long(module, monkeypatch):
    gate = Gate(module, monkeypatch, delay=0.05)
    with running(module, Limits(batch_size=1, max_seconds=0.12)) as server:
        with pytest.raises(openai.InternalServerError, match=r"not complete within the 0.12 seconds") as failure:
            server.complete(PROMPT, max_tokens=100)
        assert failure.value.status_code == 503
        stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=100, stream=True)
        with pytest.raises(openai.APIError, match=r"not complete within the 0.12 seconds"):
            list(stream)
        wait_for(lambda: server.service.scheduler.num_running == 0)
        count = gate.forwards
        assert server.metric("dmaxlit_forwards_total") == count


@pytest.mark.parametrize(
    "sent",
    [{}, *({"Authorization": value} for value in ("Bearer wrong", "Basic k\xe9y", "Bearer", "k\xe9y", "Bearer k"))],
)
def test_a_key_is_asked_for_everywhere_but_at_health(module, sent):
    with running(module, key="k\xe9y") as server:
        server.http.headers = {name: value.encode("latin-1") for name, value in sent.items()}
        for path in ("/v1/models", "/metrics", "/elsewhere"):
            response = server.http.get(path)
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
        assert server.refusal(BODY)[0] == 401
        assert server.http.get("/health").status_code == 200
        for scheme in ("Bearer", "bearer"):
            server.http.headers = {"Authorization": f"{scheme} k\xe9y".encode()}
            assert server.http.get("/v1/models").status_code == 200
