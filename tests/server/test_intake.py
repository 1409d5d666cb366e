"""What takes time before a request is decoded is done once for each prompt, and nobody else waits for it."""

import threading

from dmaxlit.engine import BlockDecoder
from tests.server.running import NAME, PROMPT


def test_prompts_are_checked_once_and_not_by_the_event_loop(server, monkeypatch):
    calls = []

    def watch(name):
        inner = getattr(BlockDecoder, name)

        def watched(*args):
            calls.append((name, threading.current_thread().name.rpartition("_")[0]))
            return inner(*args)

        monkeypatch.setattr(BlockDecoder, name, watched)

    watch("check_prompt")
    watch("make_request")
    answer = server.client.completions.create(model=NAME, prompt=[PROMPT, "8 ?"], n=3, max_tokens=4)
    assert len(answer.choices) == 6
    assert calls == [("check_prompt", "dmaxlit-encoder")] * 2 + [("make_request", "dmaxlit-encoder")] * 6
