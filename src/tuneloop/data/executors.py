"""Who applies the steps: this process, several processes, or Ray. The result is the same.

``map(function, items)`` gives the results in the order of the items. The function and the items can be pickled; rows
travel through the parts on disk, which workers on other machines must see under the same path.
"""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from tuneloop.errors import ResourceError, need

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Applies a function to items, in order."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]: ...

    def close(self) -> None: ...


class Inline:
    """In this process, one item after the other."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return map(function, items)

    def close(self) -> None:
        """Nothing to do."""


class Processes:
    """Over worker processes; items are taken from their iterator only as workers become free."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_begin_worker, initargs=(threads,)
        )

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        running: deque[Future[R]] = deque()
        try:
            for item in items:
                running.append(self._pool.submit(function, item))
                if len(running) > self._workers + 1:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise ResourceError(
                "a worker process died (out of memory?)",
                where="data.workers",
                hint=f"run again with fewer workers than {self._workers}: it continues where it stopped",
            ) from None
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _begin_worker(threads: int) -> None:
    """Before polars is imported: the workers share the cores."""
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    from tuneloop.progress import set_quiet

    set_quiet(True)


class OnRay:
    """Over the workers of a Ray cluster (a local one is started when there is none), with Ray Data.

    Ray Data wants to know all items first, so they are listed before the first one is worked on.
    """

    def __init__(self) -> None:
        self._ray = need("ray", "ray")
        self._data = need("ray.data", "ray")
        self._started = not self._ray.is_initialized()
        if self._started:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            self._ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        self._data.DataContext.get_current().enable_progress_bars = False

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        rows = [{"at": at, "item": pickle.dumps((function, item))} for at, item in enumerate(items)]
        if not rows:
            return
        done = self._data.from_items(rows, override_num_blocks=len(rows)).map_batches(_on_batch, batch_size=1)
        waiting: dict[int, Any] = {}
        following = 0
        for row in done.iter_rows():
            waiting[int(row["at"])] = pickle.loads(row["result"])  # noqa: S301  our own worker wrote it
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def close(self) -> None:
        if self._started:
            self._ray.shutdown()


def _on_batch(batch: dict[str, Any]) -> dict[str, Any]:
    results = []
    for blob in batch["item"]:
        function, item = pickle.loads(blob)  # noqa: S301  the driver wrote it
        results.append(pickle.dumps(function(item)))
    return {"at": batch["at"], "result": results}


def executor(name: str, workers: int) -> Executor:
    """The executor of a configuration.

    Raises:
        MissingExtraError: Ray is asked for and not installed.
    """
    if name == "ray":
        return OnRay()
    if name == "processes":
        return Processes(workers)
    return Inline()
