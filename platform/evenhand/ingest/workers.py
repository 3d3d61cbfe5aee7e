"""Processes that read files nobody has vouched for: one may crash, hang or swell alone.

A decoder written in C that meets a damaged file can take its process with it.
Here that costs one task: the process is replaced, and the task is answered with
what happened. Each process has a bound on memory, each task one on time.
"""

import os
import pickle
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from evenhand.errors import EvenhandError

__all__ = ["Answer", "Workers", "cores", "memory_for", "run_isolated", "serve"]

_POLL_SECONDS = 0.25
_LEAST_BYTES = 2**31
_SHARE_OF_MEMORY = 0.75


@dataclass(frozen=True)
class Answer:
    """What became of task number `index`: a `value`, or the reason why there is none.

    `error` is what the task raised on purpose; `fate` says, for people, how a
    task ended that did not come to its end.
    """

    index: int
    value: Any = None
    error: EvenhandError | None = None
    fate: str | None = None


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    task: int | None = None
    since: float = field(default_factory=time.monotonic)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def memory_for(jobs: int) -> int:
    """Bytes that each of `jobs` processes may take: three quarters of the machine, shared."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(int(total * _SHARE_OF_MEMORY / jobs), _LEAST_BYTES)


class Workers:
    """Processes that are kept from one run of tasks to the next: starting one takes half a second.

    Args:
        jobs: processes at most.
        memory_bytes: what each may take; None: `memory_for(jobs)`.
        modules: imported by each at once, before its first task; the processes start now.
    """

    def __init__(
        self, jobs: int, memory_bytes: int | None = None, modules: Sequence[str] = ()
    ) -> None:
        self.jobs = jobs
        self._memory_bytes = memory_bytes or memory_for(jobs)
        self._modules = tuple(modules)
        self._idle = [self._start() for _ in range(jobs if modules else 0)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for worker in self._idle:
            _end(worker)
        self._idle = []

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any], *, seconds: float = 600.0
    ) -> Iterator[Answer]:
        """Call `function(task)` for each task in other processes; yield answers as they come.

        Args:
            function: at the top level of a module; it and the tasks can be pickled.
            tasks: in any number; processes are started only while there is work.
            seconds: for each task.
        """
        queue = iter(range(len(tasks)))
        workers: list[_Worker] = []
        try:
            for _ in range(min(self.jobs, len(tasks))):
                workers.append(self._idle.pop() if self._idle else self._start())
                _give(workers[-1], function, tasks, queue)
            while busy := [worker for worker in workers if worker.task is not None]:
                ready = wait([worker.pipe for worker in busy], timeout=_POLL_SECONDS)
                for worker in busy:
                    answer = _answer(worker, worker.pipe in ready, seconds)
                    if answer is None:
                        continue
                    if answer.fate is not None and worker.process.poll() is not None:
                        workers.remove(worker)
                        worker.pipe.close()
                        worker = self._start()  # noqa: PLW2901 - the dead one's place
                        workers.append(worker)
                    _give(worker, function, tasks, queue)
                    yield answer
        finally:
            for worker in workers:
                if worker.task is None and worker.process.poll() is None:
                    self._idle.append(worker)
                else:  # its answer would be taken for that of another run's task
                    _end(worker)

    def _start(self) -> _Worker:
        return _start(self._memory_bytes, self._modules)


def run_isolated(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    *,
    jobs: int,
    memory_bytes: int | None = None,
    seconds: float = 600.0,
) -> Iterator[Answer]:
    """Call `function(task)` for each task in processes of this call's own; see `Workers`."""
    with Workers(jobs, memory_bytes) as workers:
        yield from workers.run(function, tasks, seconds=seconds)


def _start(memory_bytes: int, modules: tuple[str, ...]) -> _Worker:
    ours, theirs = Pipe()
    call = f"serve({theirs.fileno()}, {memory_bytes}, {modules!r}, parent={os.getpid()})"
    code = f"from evenhand.ingest.workers import serve; {call}"
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", code],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # decoders print what they find, identifiers included
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    theirs.close()
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.wait()


def _give(
    worker: _Worker, function: Callable[[Any], Any], tasks: Sequence[Any], queue: Iterator[int]
) -> None:
    worker.task = next(queue, None)
    worker.since = time.monotonic()
    if worker.task is not None:
        try:
            worker.pipe.send_bytes(pickle.dumps((function, tasks[worker.task])))
        except OSError:  # it died between two tasks; the next look at it finds out
            return


def _answer(worker: _Worker, ready: bool, seconds: float) -> Answer | None:
    index = worker.task if worker.task is not None else -1
    if ready:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            worker.process.kill()
            worker.process.wait()
            return Answer(index, fate="the decoder crashed on it")
        if kind == "value":
            return Answer(index, value=value)
        return Answer(index, error=value) if kind == "error" else Answer(index, fate=value)
    if time.monotonic() - worker.since > seconds:
        worker.process.kill()
        worker.process.wait()
        return Answer(index, fate=f"reading it took more than {seconds:g} s")
    return None


def serve(descriptor: int, memory_bytes: int, modules: Sequence[str] = (), *, parent: int) -> None:
    """Be a worker: answer tasks from a pipe until it closes. Called in the new process."""
    if os.getppid() != parent:  # killed before this process had begun, with a task in the pipe
        return
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    pipe = Connection(descriptor)
    for module in modules:
        import_module(module)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            function, task = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own parent
        except EOFError:
            return
        try:
            answer = ("value", function(task))
        except EvenhandError as error:
            answer = ("error", error)
        except MemoryError:
            answer = ("fate", "it needs more memory than this machine allows one case")
        except Exception as error:  # noqa: BLE001 - whatever a damaged file brings about
            answer = ("fate", f"reading it failed unexpectedly ({type(error).__name__})")
        pipe.send(answer)


def _watch(parent: int) -> None:
    """End with the parent, killed or not: an orphan must not write into a store."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)
