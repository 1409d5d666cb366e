"""Responses leave at the next forward; what fails, or waits for a batch of its own, takes no other with it."""

import asyncio
import contextlib
import threading
import weakref

import httpx
import openai
import pytest
import torch

from dmaxlit.backbone.cache import RowCache, _RowLayer
from dmaxlit.engine import block_forward
from dmaxlit.server import Limits
from dmaxlit.server import scheduler as scheduling
from dmaxlit.server.scheduler import Scheduler
from tests.server.running import NAME, PATIENCE, PROMPT, Gate, running, tiny_module, wait_for

LONG = 100  # tokens


@pytest.fixture
def gate(module, monkeypatch):
    return Gate(module, monkeypatch, delay=0.005)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_row_at_the_next_forward(module, server, gate, stream):
    scheduler = server.service.scheduler
    aborted = server.metric("dmaxlit_aborted_responses_total")

    async def leave():
        async with server.async_client() as client:
            asking = asyncio.create_task(
                client.completions.create(model=NAME, prompt=[PROMPT, PROMPT], max_tokens=LONG, stream=stream)
            )
            while scheduler.num_running < 2:
                await asyncio.sleep(0.001)
            asking.cancel()

    asyncio.run(leave())
    wait_for(lambda: scheduler.num_running == 0)
    count = gate.forwards
    assert server.complete(PROMPT).num_forwards <= gate.forwards - count + 1
    assert server.metric("dmaxlit_aborted_responses_total") == aborted + 2


def test_a_stream_that_is_closed_frees_its_row(server, gate):
    stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=LONG, stream=True)
    next(iter(stream))
    stream.close()
    wait_for(lambda: server.service.scheduler.num_running == 0)


def test_a_client_that_leaves_the_queue_is_not_decoded(module, gate):
    with running(module, Limits(batch_size=1)) as server:
        expected = server.complete("8 ?")
        gate.close()
        first = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=8, stream=True)
        second = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=LONG, stream=True)
        wait_for(lambda: server.service.scheduler.num_waiting == 1)
        second.close()
        gate.open()
        list(first)
        assert server.complete("8 ?").token_ids == expected.token_ids
        wait_for(lambda: server.service.scheduler.num_waiting == 0)
        assert server.metric("dmaxlit_aborted_responses_total") == 1
        assert server.metric("dmaxlit_responses_total") == 3


def test_the_others_of_a_request_that_fails_are_not_counted_as_left(module, gate):
    with running(module, Limits(batch_size=1)) as server:
        scheduler = server.service.scheduler
        gate.close()
        stream = server.client.completions.create(model=NAME, prompt=PROMPT, n=2, max_tokens=LONG, stream=True)
        wait_for(lambda: scheduler.num_running == scheduler.num_waiting == 1)
        scheduler.stop(PATIENCE)  # refuses the second
        gate.open()
        with pytest.raises(openai.APIError, match="The server is shutting down"):
            list(stream)
        scheduler.join()
        assert gate.forwards < LONG, "the first is given up"
        assert server.metric("dmaxlit_aborted_responses_total") == 0


def test_a_forward_that_fails_fails_its_responses_and_no_later_ones(module, monkeypatch, caplog):
    with running(module) as server:
        expected = server.complete(PROMPT)
        with monkeypatch.context() as patch:
            patch.setattr(module.backbone, "hidden", lambda *args, **named: 1 / 0)
            with pytest.raises(openai.InternalServerError, match="The server failed to decode the response") as failure:
                server.complete(PROMPT)
            assert "division" not in str(failure.value)
        assert "division by zero" in caplog.text
        assert server.complete(PROMPT).token_ids == expected.token_ids


def test_a_response_of_which_the_model_computes_nan_fails_alone(monkeypatch, caplog):
    module = tiny_module(vocab_size=40)
    with torch.no_grad():
        module.backbone.embedding[39] = torch.nan  # of a token that is never predicted
    Gate(module, monkeypatch, delay=0.005)
    with running(module) as server:
        expected = server.complete(PROMPT, max_tokens=LONG).text
        stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=LONG, stream=True)
        first = next(iter(stream)).choices[0].text
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="The server failed to decode the response"):
                server.complete([1] * 20 + [39])
            assert server.complete(PROMPT, max_tokens=8).text  # takes over its place
        assert first + "".join(chunk.choices[0].text for chunk in stream) == expected
    assert "expected finite hidden states of the model, got NaN" in caplog.text


def test_decoders_that_cannot_share_forwards_wait_for_a_batch_of_their_own(module, gate):
    options = [{"decoder": "psd"}, {"decoder": "wino"}, {"window": 2}, {"window": 3}, {"window": 4}, {}]
    with running(module) as server:
        alone = [server.complete(PROMPT, max_tokens=8, **body).token_ids for body in options]
        gate.close()
        answers = {}
        threads = [
            threading.Thread(
                target=lambda i=i: answers.update({i: server.complete(PROMPT, max_tokens=8, **options[i]).token_ids})
            )
            for i in range(len(options))
        ]
        for thread in threads:
            thread.start()
        scheduler = server.service.scheduler
        wait_for(lambda: scheduler.num_running + scheduler.num_waiting == len(options))
        gate.open()
        for thread in threads:
            thread.join(PATIENCE)
        assert [answers[i] for i in range(len(options))] == alone


@pytest.fixture
def rows(monkeypatch):
    """Return a function that counts the rows of all caches that are in memory."""
    caches = weakref.WeakSet()

    class Counted(RowCache):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            caches.add(self)

    monkeypatch.setattr(block_forward, "RowCache", Counted)
    return lambda: sorted(cache.num_rows + cache.max_extra_rows for cache in list(caches))


def test_a_batch_without_responses_makes_room_for_another(module, rows):
    with running(module, Limits(batch_size=8)) as server:
        for window in (1, 2, 3, 4, 2):
            server.complete(PROMPT, max_tokens=8, window=window)
            assert rows() == [8 * window + 4]


def test_a_batch_without_responses_goes_after_a_while(module, rows, gate, monkeypatch):
    monkeypatch.setattr(scheduling, "_IDLE_SECONDS", 0.05)
    with running(module, Limits(batch_size=8)) as server:
        server.complete(PROMPT, max_tokens=8)
        wait_for(lambda: not rows())
        # Also while another is busy.
        with server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=LONG, stream=True) as stream:
            next(iter(stream))
            server.complete(PROMPT, max_tokens=4, window=2)
            wait_for(lambda: rows() == [12])
            assert server.service.scheduler.num_running == 1


def test_a_failure_frees_the_caches_that_nobody_uses(module, rows, gate, monkeypatch):
    monkeypatch.setattr(scheduling, "_IDLE_SECONDS", 1e6)
    with running(module, Limits(batch_size=8)) as server:
        stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=LONG, stream=True)
        next(iter(stream))
        server.complete(PROMPT, max_tokens=8, window=2)
        assert rows() == [12, 20]
        monkeypatch.setattr(module.backbone, "hidden", lambda *args, **named: 1 / 0)
        with pytest.raises(openai.APIError, match="The server failed to decode the response"):
            list(stream)
        assert 20 not in rows()


def test_a_batch_that_cannot_be_made_fails_its_response_alone(module, gate, monkeypatch):
    with running(module) as server:
        expected = server.complete(PROMPT, max_tokens=LONG).text
        stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=LONG, stream=True)
        first = next(iter(stream)).choices[0].text
        with monkeypatch.context() as patch:
            patch.setattr(scheduling, "JobBatch", lambda *args: 1 / 0)
            with pytest.raises(openai.InternalServerError, match="The server failed to decode the response"):
                server.complete(PROMPT, window=2)
        assert first + "".join(chunk.choices[0].text for chunk in stream) == expected
        assert server.complete(PROMPT, max_tokens=8, window=2).text


def test_a_response_for_which_there_is_no_memory_fails_alone_and_is_not_asked_for_again(
    module, gate, monkeypatch, caplog
):
    with running(module) as server:
        expected = server.complete(PROMPT, max_tokens=40).text
        stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=40, stream=True)
        first = next(iter(stream)).choices[0].text
        with monkeypatch.context() as patch:
            patch.setattr(RowCache, "extend", lambda *args: out_of_memory())
            with pytest.raises(openai.BadRequestError, match=r"max_tokens: .* memory for, got 112 tokens") as refusal:
                server.complete(PROMPT, max_tokens=LONG)
            assert refusal.value.param == "max_tokens"
            assert "--max_length" in refusal.value.message
        assert first + "".join(chunk.choices[0].text for chunk in stream) == expected
        assert server.complete(PROMPT, max_tokens=LONG).text
    assert "no memory for the keys and values of 112 positions" in caplog.text


def test_a_cache_grows_further_than_it_has_to_but_not_beyond_what_requests_may_have(module, monkeypatch):
    lengths, extend = [], RowCache.extend
    monkeypatch.setattr(RowCache, "extend", lambda cache, length: lengths.append(length) or extend(cache, length))
    with running(module, Limits(max_length=84)) as server:
        for max_tokens in (64, 72, LONG):  # 72, 80 and 88 positions; a quarter more than 72 is 90
            server.complete(PROMPT, max_tokens=max_tokens)
    assert lengths == [72 + 1, 88 + 1]


def test_caches_that_nobody_uses_are_room_for_a_longer_one(module, server, monkeypatch, rows, gate):
    expected, extend = server.complete(PROMPT, max_tokens=LONG).token_ids, RowCache.extend
    with (
        running(module, Limits(batch_size=8)) as fresh,
        fresh.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=40, stream=True) as stream,
    ):
        next(iter(stream))
        fresh.complete(PROMPT, max_tokens=8, window=2)
        assert {12, 20} <= set(rows())
        monkeypatch.setattr(RowCache, "extend", lambda *args: out_of_memory() if 20 in rows() else extend(*args))
        assert fresh.complete(PROMPT, max_tokens=LONG).token_ids == expected


def test_a_cache_that_nobody_uses_is_replaced_if_it_cannot_grow(module, monkeypatch, rows):
    extend, at_the_second = RowCache.extend, []

    def extend_if_empty(cache, length):
        if cache.is_filled:
            out_of_memory()
        at_the_second.extend(rows())
        extend(cache, length)

    with running(module, Limits(batch_size=8)) as server:
        server.complete(PROMPT, max_tokens=8)
        monkeypatch.setattr(RowCache, "extend", extend_if_empty)
        assert server.complete(PROMPT, max_tokens=LONG).text
        assert at_the_second == [12]  # the first has gone


def test_a_first_response_for_which_there_is_no_memory_fails_alone(module, server, gate, monkeypatch):
    expected = server.complete(PROMPT, max_tokens=40).text
    buffer = _RowLayer._buffer
    monkeypatch.setattr(
        _RowLayer,
        "_buffer",
        lambda layer, states: out_of_memory() if layer._rows.length > 99 else buffer(layer, states),
    )

    def begin(**options):
        return fresh.client.completions.create(model=NAME, prompt=PROMPT, stream=True, **options)

    with running(module) as fresh, contextlib.ExitStack() as streams:
        gate.close()
        streams.enter_context(begin(max_tokens=8, extra_body={"window": 2}))
        wait_for(lambda: fresh.service.scheduler.num_running == 1)
        long, short = (streams.enter_context(begin(max_tokens=tokens)) for tokens in (LONG, 40))
        assert fresh.service.scheduler.num_waiting == 2
        gate.open()
        with pytest.raises(openai.APIError, match=r"max_tokens: .* memory for, got 112 tokens"):
            list(long)
        assert "".join(chunk.choices[0].text for chunk in short) == expected


def out_of_memory():
    raise torch.OutOfMemoryError("full")


def test_a_server_that_stops_ends_what_it_decodes_and_refuses_the_rest(module, gate):
    with running(module, Limits(batch_size=1)) as server:
        expected = server.complete(PROMPT, max_tokens=40)
        gate.close()
        scheduler = server.service.scheduler
        running_stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=40, stream=True)
        wait_for(lambda: scheduler.num_running == 1)
        waiting = server.client.completions.create(model=NAME, prompt="8 ?", stream=True)
        wait_for(lambda: scheduler.num_waiting == 1)
        scheduler.stop(PATIENCE)
        assert server.http.get("/health").json()["status"] == "stopping"
        with pytest.raises(openai.InternalServerError, match="The server is shutting down") as refusal:
            server.complete("9 ?")
        assert refusal.value.status_code == 503
        gate.open()
        assert "".join(chunk.choices[0].text for chunk in running_stream) == expected.text
        with pytest.raises(openai.APIError, match="The server is shutting down"):
            list(waiting)
        scheduler.join()
        assert server.http.get("/health").json()["status"] == "stopped"


def test_while_a_server_ends_what_it_decodes_new_connections_learn_that_it_stops(module, gate):
    with running(module, Limits(batch_size=1)) as server:
        expected = server.complete(PROMPT, max_tokens=40)
        gate.close()
        stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=40, stream=True)
        wait_for(lambda: server.service.scheduler.num_running == 1)
        server.server.should_exit = True  # as after SIGTERM
        wait_for(lambda: not server.service.scheduler.is_alive)
        health = httpx.get(f"{server.url}/health")
        assert (health.status_code, health.json()) == (503, {"status": "stopping", "running": 1, "waiting": 0})
        late = httpx.post(f"{server.url}/v1/completions", json={"prompt": "9 ?"})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        gate.open()
        assert "".join(chunk.choices[0].text for chunk in stream) == expected.text


def test_a_server_that_stops_does_not_wait_longer_than_it_may(module, gate):
    with running(module, Limits(shutdown_seconds=0.05)) as server:
        stream = server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=LONG, stream=True)
        wait_for(lambda: server.service.scheduler.num_running == 1)
        server.server.should_exit = True
        with pytest.raises(openai.APIError, match="The server is shutting down"):
            list(stream)


def test_nothing_is_decoded_before_the_start():
    from dmaxlit.server.errors import ApiError
    from dmaxlit.server.metrics import Metrics

    scheduler = Scheduler(Limits(), Metrics())
    with pytest.raises(ApiError, match="shutting down"):
        scheduler.submit([])
    scheduler.stop(0)
    scheduler.join()


def test_a_dead_engine_is_reported_and_nobody_waits_for_it(module, gate, caplog):
    with running(module, Limits(batch_size=1)) as server:
        scheduler = server.service.scheduler
        gate.close()
        streams = [
            server.client.completions.create(model=NAME, prompt=PROMPT, max_tokens=LONG, stream=True) for _ in range(2)
        ]
        wait_for(lambda: scheduler.num_running == scheduler.num_waiting == 1)
        scheduler._admit = lambda: 1 / 0
        gate.open()
        for stream in streams:
            with pytest.raises(openai.APIError, match="The server is shutting down"):
                list(stream)
        assert server.http.get("/health").status_code == 503
        with pytest.raises(openai.InternalServerError, match="The server is shutting down"):
            server.complete(PROMPT)
        assert "the engine's thread has ended" in caplog.text
