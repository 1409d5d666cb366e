"""A function applied to chunks of work by several processes, with the results in order."""

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from dmaxlit.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2  # chunks that wait for a free process, so that none idles
# Forked processes inherit the function, as those of a loader inherit the rows; other systems pickle it.
_METHOD = "fork" if sys.platform == "linux" else None
_function: Callable[[Any], Any] | None = None  # of this process, if it is one of the pool's


def ordered_map(function: Callable[[T], R], chunks: Iterable[T], num_proc: int) -> Iterator[R]:
    """Yield the result of each chunk, in order.

    Results and errors come as they would from one process: what an iterator of chunks raises comes behind the results
    of the chunks before it. Only a few chunks are in memory at a time.

    Args:
        function: Applied to each chunk; it and its results can be pickled.
        chunks: The chunks; read in this process.
        num_proc: Number of processes; with 1, it is this one.

    Raises:
        UserError: If a process is killed.
    """
    if num_proc == 1:
        yield from map(function, chunks)
        return
    pool = ProcessPoolExecutor(num_proc, multiprocessing.get_context(_METHOD), _start, (function,))
    try:
        yield from _results(pool, chunks, num_proc + _AHEAD)
    except BrokenProcessPool as error:
        raise UserError(
            f"num_proc: expected {num_proc} processes to live, but one was killed, perhaps for want of memory"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _results(pool: ProcessPoolExecutor, chunks: Iterable[Any], at_once: int) -> Iterator[Any]:
    pending: deque[Future[Any]] = deque()
    iterator, failure, is_left = iter(chunks), None, True
    while is_left or pending:
        if is_left and len(pending) < at_once:
            try:
                pending.append(pool.submit(_apply, next(iterator)))
            except StopIteration:
                is_left = False
            except BrokenProcessPool:
                raise
            except Exception as error:
                failure, is_left = error, False
        else:
            yield pending.popleft().result()
    if failure is not None:
        raise failure


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C ends the process that waits for these, which ends them in order
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a process of the pool"
    wait([parent.sentinel])
    os._exit(1)


def _apply(chunk: Any) -> Any:
    assert _function is not None, "set when the process starts"
    return _function(chunk)
