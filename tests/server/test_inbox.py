"""Newer drafts replace older ones, and none is lost between two threads."""

import asyncio
import threading

from dmaxlit.engine import Draft
from dmaxlit.server.errors import shutting_down
from dmaxlit.server.inbox import Inbox


def draft(number):
    return Draft("", "", number)


def test_the_newest_draft_of_each_response_arrives_once():
    async def read():
        inbox = Inbox(asyncio.get_running_loop())
        failure = shutting_down()
        for number in range(3):
            inbox.post(0, draft(number))
        inbox.post(1, failure)
        assert await inbox.take() == {0: draft(2), 1: failure}
        inbox.post(0, draft(3))
        assert await inbox.take() == {0: draft(3)}

    asyncio.run(read())


def test_the_last_draft_always_arrives():
    async def read():
        inbox = Inbox(asyncio.get_running_loop())
        last = 2000
        writer = threading.Thread(target=lambda: [inbox.post(0, draft(number)) for number in range(last + 1)])
        writer.start()
        seen = [-1]
        while seen[-1] < last:
            seen += [item.num_forwards for item in (await asyncio.wait_for(inbox.take(), 30)).values()]
        writer.join()
        assert seen == sorted(set(seen))

    asyncio.run(read())


def test_posting_to_a_reader_that_is_gone_does_nothing():
    async def make():
        return Inbox(asyncio.get_running_loop())

    asyncio.run(make()).post(0, draft(1))
