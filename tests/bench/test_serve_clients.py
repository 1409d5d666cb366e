"""Clients find what is wrong with responses."""

import asyncio
import random
from dataclasses import replace

import pytest

from dmaxlit.bench.serve_cases import MALFORMED, make_cases
from dmaxlit.bench.serve_clients import Clients, ask_all
from dmaxlit.server import Limits
from tests.server.running import PROMPT, running, tiny_module


@pytest.fixture(scope="module")
def server():
    with running(tiny_module(), Limits(max_body=50_000)) as run:
        yield run


@pytest.fixture(scope="module")
def cases(server):
    return make_cases(server.module, [PROMPT, "2 ?", "3 3 3", "0 answer"], seed=1)


def counts_of(url, cases, seconds=1.0):
    clients = Clients(url, cases, seed=0)
    asyncio.run(clients.work(6, seconds))
    return clients.counts


def test_cases_have_settings_of_their_own(cases):
    assert len({str(sorted((name, str(value)) for name, value in case.body.items())) for case in cases}) == len(cases)
    assert len({case.body["decoder"] for case in cases}) > 1


def test_a_server_that_answers_as_generate_does_makes_no_mistakes(server, cases):
    counts = counts_of(f"{server.url}/v1", cases)
    assert all(counts[kind] > 0 for kind in ("whole", "streamed", "malformed"))
    assert counts["wrong"] == counts["swapped"] == counts["lost"] == 0


def test_every_malformed_body_is_refused(server):
    for body in MALFORMED:
        response = server.http.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
        assert 400 <= response.status_code < 500, body[:40]


def test_other_responses_and_those_to_others_are_told_apart(server, cases):
    distinct = [case for case in cases if case.expected.num_tokens > 1][:2]
    one, other = distinct
    swapped = [replace(one, expected=other.expected), replace(other, expected=one.expected)]
    counts = counts_of(f"{server.url}/v1", swapped, 0.3)
    assert counts["swapped"] > 0
    assert counts["wrong"] == counts["lost"] == 0
    wrong = [replace(one, expected=replace(one.expected, token_ids=[0], text="?"))]
    counts = counts_of(f"{server.url}/v1", wrong, 0.3)
    assert counts["wrong"] > 0
    assert counts["swapped"] == counts["lost"] == 0


def test_requests_that_nobody_answers_are_lost(cases):
    clients = Clients("http://127.0.0.1:9/v1", cases, seed=0)
    asyncio.run(clients.work(6, 0.05))
    counts = clients.counts
    assert sum(clients.reasons.values()) == counts["lost"]
    assert any("ConnectError" in reason for reason in clients.reasons)
    assert counts["lost"] > counts["aborted"]  # some clients leave before the system refuses
    assert counts["lost"] + counts["aborted"] >= counts["whole"] + counts["streamed"] + counts["malformed"]


def test_a_client_that_stays_until_the_end_counts_as_what_it_asked_for(cases):
    clients, asked, rng = Clients("http://127.0.0.1:9/v1", cases, seed=0), [], random.Random(0)

    async def streamed(*_):
        asked.append("streamed")

    async def whole(*_):
        asked.append("whole")

    clients._streamed, clients._whole = streamed, whole
    for _ in range(8):
        asyncio.run(clients._aborted(None, cases[0], rng))
    assert {"streamed", "whole"} <= set(asked)
    assert all(clients.counts[kind] == asked.count(kind) for kind in set(asked))


def test_the_tokens_of_all_responses_are_counted(server):
    bodies = [{"prompt": PROMPT, "max_tokens": count} for count in (1, 2, 3)]
    assert asyncio.run(ask_all(f"{server.url}/v1", bodies, 2)) == 6
