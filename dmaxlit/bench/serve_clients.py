"""Clients of a server that ask, stream, leave and send nonsense, and check every answer."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

from dmaxlit.bench.serve_cases import MALFORMED, Case
from dmaxlit.errors import reason_of

_PATH = "/completions"
_TIMEOUT = 120.0  # seconds
_MAX_STAY = 0.3  # seconds until a client leaves
_KINDS = ("whole", "streamed", "aborted", "malformed")
_SHARES = (55, 20, 15, 10)
#: What is counted.
COUNTS = (*_KINDS, "wrong", "swapped", "lost")


class Clients:
    """Clients that work at the same time.

    Args:
        url: Base URL of the server.
        cases: Requests whose responses are known.
        seed: Seed of what they do.

    Attributes:
        counts: Requests by kind, and by what was wrong: ``wrong`` (another response), ``swapped`` (that of another
            request), ``lost`` (none, or a malformed one that was not refused).
        reasons: Why responses were lost.
    """

    def __init__(self, url: str, cases: Sequence[Case], seed: int) -> None:
        self._url, self._cases, self._seed = url, cases, seed
        self._responses = {tuple(case.expected.token_ids) for case in cases}
        self._texts = {case.expected.text for case in cases}
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    async def work(self, number: int, seconds: float) -> None:
        """Let some clients ask one request after the other.

        Args:
            number: Number of clients.
            seconds: How long they begin new ones.
        """
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=number)
        async with httpx.AsyncClient(base_url=self._url, timeout=_TIMEOUT, limits=limits) as http:
            end = time.monotonic() + seconds
            await asyncio.gather(
                *(self._one(http, random.Random(self._seed + client), end) for client in range(number))
            )

    async def _one(self, http: httpx.AsyncClient, rng: random.Random, end: float) -> None:
        while time.monotonic() < end:
            (kind,) = rng.choices(_KINDS, _SHARES)
            case = rng.choice(self._cases)
            self.counts[kind] += 1
            try:
                if kind == "whole":
                    await self._whole(http, case)
                elif kind == "streamed":
                    await self._streamed(http, case, rng.random() < 0.5)
                elif kind == "aborted":
                    await self._aborted(http, case, rng)
                else:
                    await self._malformed(http, rng.choice(MALFORMED))
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.counts["lost"] += 1
                self.reasons[f"{kind}: {reason_of(error, with_type=True)}"] += 1

    async def _whole(self, http: httpx.AsyncClient, case: Case) -> None:
        response = await http.post(_PATH, json={**case.body, "return_token_ids": True})
        response.raise_for_status()
        (choice,) = response.json()["choices"]
        self._check(choice["token_ids"], case.expected.token_ids, tuple(choice["token_ids"]) in self._responses)

    async def _streamed(self, http: httpx.AsyncClient, case: Case, with_provisional: bool) -> None:
        body = {**case.body, "stream": True, "stream_options": {"include_provisional": with_provisional}}
        text, is_complete = "", False
        async with http.stream("POST", _PATH, json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    is_complete = True
                elif line.startswith("data: "):
                    chunk = json.loads(line.removeprefix("data: "))
                    text += "".join(choice["text"] for choice in chunk["choices"])
        if not is_complete:
            raise ValueError("the stream has no end")
        self._check(text, case.expected.text, text in self._texts)

    async def _aborted(self, http: httpx.AsyncClient, case: Case, rng: random.Random) -> None:
        stay = rng.random() * _MAX_STAY
        is_streamed = rng.random() < 0.5
        asking = self._streamed(http, case, False) if is_streamed else self._whole(http, case)
        try:
            await asyncio.wait_for(asking, stay)
        except TimeoutError:
            return
        self.counts["aborted"] -= 1  # it was faster
        self.counts["streamed" if is_streamed else "whole"] += 1

    async def _malformed(self, http: httpx.AsyncClient, content: bytes) -> None:
        response = await http.post(_PATH, content=content, headers={"Content-Type": "application/json"})
        if not (400 <= response.status_code < 500 and response.json()["error"]["message"]):
            raise ValueError("a malformed request was not refused")

    def _check(self, came: object, expected: object, is_another_s: bool) -> None:
        if came != expected:
            self.counts["swapped" if is_another_s else "wrong"] += 1


async def ask_all(url: str, bodies: Sequence[dict[str, Any]], number: int) -> int:
    """Send requests, and return the number of tokens of their responses.

    Args:
        url: Base URL of the server.
        bodies: The requests.
        number: How many are sent at the same time.
    """
    waiting, tokens = list(reversed(bodies)), 0
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as http:

        async def client() -> None:
            nonlocal tokens
            while waiting:
                response = await http.post(_PATH, json=waiting.pop())
                response.raise_for_status()
                tokens += response.json()["usage"]["completion_tokens"]

        await asyncio.gather(*(client() for _ in range(number)))
    return tokens
