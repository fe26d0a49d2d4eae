"""Where units of work are computed: in this process, or by workers of Ray, one for each device of one or many machines.

A unit is a call ``function(job, unit)``: a function of a module, what all units of a job share, and what is this unit's
own. Units are pure, so that it does not matter who computes one, when, and how often. Results come in any order.
"""

import itertools
import logging
import os
import queue
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from typing import Any, Protocol, TypeVar, runtime_checkable

J = TypeVar("J", contravariant=True)
U = TypeVar("U")
R = TypeVar("R")

QUEUE = 2
"""Units that a worker has at once, so that it need not wait for the program while that writes a result."""
TRIES = 5
"""Workers in a row that may die with the same unit before it is given up; some machines are taken away at random."""
START_SECONDS = 300
"""Seconds to wait for a worker when there is none."""
ACCELERATORS = ("GPU", "TPU")
"""Ray's names of devices of which a worker gets one."""
INHERITED = ("JAX_", "JAXIQA_", "XLA_")
"""Beginnings of the names of environment variables that every worker gets from the program."""


@runtime_checkable
class Compute(Protocol):
    """Computes units; yields their results in any order."""

    def __call__(self, function: Callable[[Any, Any], Any], job: Any, units: Iterable[Any]) -> Iterator[Any]: ...


def alone(function: Callable[[Any, Any], Any], job: Any, units: Iterable[Any]) -> Iterator[Any]:
    """Compute the units in this process, in their order; each when its result is asked for.

    >>> list(alone(pow, 2, [1, 2, 3]))
    [2, 4, 8]
    """
    return (function(job, unit) for unit in units)


@dataclass(frozen=True)
class Place:
    """The place of one worker.

    Attributes:
        node: Ray's name of the machine.
        device: kind of its device, one of `ACCELERATORS`; None: a share of the cores.
        share: (i, n): on a CPU, part i of n equal parts of the machine's cores.
    """

    node: str
    device: str | None
    share: tuple[int, int]


def places(nodes: Sequence[Mapping[str, Any]], count: int | None, *, accelerators: bool = True) -> list[Place]:
    """Return the places of the workers: one for each GPU or TPU of all machines; if there is none, one per machine.

    Args:
        nodes: machines, as `ray.nodes` describes them.
        count: number of workers; None: all devices. On CPUs it may be larger than the number of machines.
        accelerators: False: use the CPUs, whatever else there is.

    Raises:
        ValueError: there are fewer devices than ``count``, or no machine.

    >>> nodes = [{"NodeID": "a", "Resources": {"CPU": 8.0}}, {"NodeID": "b", "Resources": {"CPU": 8.0}}]
    >>> [(place.node, place.share) for place in places(nodes, 3)]
    [('a', (0, 2)), ('b', (0, 1)), ('a', (1, 2))]
    >>> [place.device for place in places([{"NodeID": "a", "Resources": {"GPU": 2.0}}], None)]
    ['GPU', 'GPU']
    """
    if not nodes:
        raise ValueError("the Ray cluster has no machine; start one by `ray start`")
    kinds = ACCELERATORS if accelerators else ()
    devices = [
        (node["NodeID"], kind) for node in nodes for kind in kinds for _ in range(int(node["Resources"].get(kind, 0)))
    ]
    if devices:
        if count is not None and count > len(devices):
            raise ValueError(f"--workers {count}: there are {len(devices)} GPUs or TPUs, and each worker needs one")
        return [Place(node, kind, (0, 1)) for node, kind in devices[:count]]
    names = [node["NodeID"] for node in nodes]
    chosen = list(itertools.islice(itertools.cycle(names), count or len(names)))
    of, seen = Counter(chosen), Counter[str]()
    found = []
    for name in chosen:
        found.append(Place(name, None, (seen[name], of[name])))
        seen[name] += 1
    return found


def cores_of(share: tuple[int, int], cores: Sequence[int]) -> list[int]:
    """Return the cores of one of n workers; more workers than cores share them.

    >>> [cores_of((i, 2), range(5)) for i in range(2)], cores_of((3, 4), [0, 1])
    ([[0, 1], [2, 3]], [1])
    """
    index, of = share
    each = max(1, len(cores) // of)
    first = index * each % len(cores)
    return list(cores)[first : first + each]


class _Worker:
    """One process of Ray. It keeps the last job, so its models and compiled programs stay warm."""

    def __init__(self) -> None:
        self.about: Any = None
        self.job: Any = None
        self.said: queue.SimpleQueue = queue.SimpleQueue()

    def start(self, place: Place, environment: dict[str, str], folder: str) -> None:
        """Do what must come before JAX starts: the environment, the cores, the working directory."""
        os.environ.update(environment)
        if place.device is None:
            cores: Sequence[int] = range(os.cpu_count() or 1)
            if hasattr(os, "sched_setaffinity"):  # threads that start from here on, such as XLA's
                cores = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(0, cores_of(place.share, cores))
            os.environ |= {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "1",
                "NPROC": str(len(cores_of(place.share, cores))),  # XLA's number of threads
            }
        with _node_named():
            os.chdir(folder)
        handler = QueueHandler(self.said)
        handler.setLevel(logging.WARNING)
        logging.getLogger("jaxiqa").addHandler(handler)

    def run(self, function: Callable[[Any, Any], Any], job: Sequence[Any], unit: Any) -> tuple[Any, list[Any]]:
        """Compute one unit; return its result and what was logged."""
        import ray

        with _node_named():
            if self.about != job[0]:
                self.job = None  # frees its memory first
                self.about, self.job = job[0], ray.get(job[0])
            result = function(self.job, unit)
        return result, [self.said.get() for _ in range(self.said.qsize())]


@contextmanager
def _node_named() -> Iterator[None]:
    """Add the node to the message of an error about a missing file."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} (on node {socket.gethostname()}; all nodes need the same files at the same paths, in folders "
            "that they share)"
        ) from error


@dataclass(eq=False)
class Workers:
    """Workers of Ray, one per place; a `Compute`. A worker that dies is replaced, and its unit is computed again.

    Each has `QUEUE` units at a time, so fast workers compute more of them. An error of a unit is raised here, as if it
    had been computed here. The program must not use the devices of the workers itself.

    Args:
        places: where they are.
        note: is told about each worker that died.

    Raises:
        ValueError: on use; a unit ended `TRIES` workers, or no worker started.
    """

    places: Sequence[Place]
    note: Callable[[str], Any]
    _actors: dict[Any, Place] = field(default_factory=dict)
    _starting: dict[Any, Any] = field(default_factory=dict)
    _sent: tuple[Any, ...] = ()
    _failures: int = 0

    def __post_init__(self) -> None:
        for place in self.places:
            self._start(place)

    def __call__(self, function: Callable[[Any, Any], Any], job: Any, units: Iterable[Any]) -> Iterator[Any]:
        import ray

        if not self._sent or self._sent[0] is not job:
            self._sent = job, ray.put(job)
        left, again = iter(units), deque[Any]()
        idle, running, deaths = list(self._actors) * QUEUE, dict[Any, tuple[Any, Any]](), Counter[int]()
        nothing = object()
        while True:
            while idle:
                unit = again.popleft() if again else next(left, nothing)
                if unit is nothing:
                    break
                actor = idle.pop()
                running[actor.run.remote(function, [self._sent[1]], unit)] = actor, unit
            if not running and (idle or not self._starting):
                return
            waiting = [*running, *self._starting]
            ready, _ = ray.wait(waiting, num_returns=1, timeout=None if running else START_SECONDS)
            if not ready:
                raise ValueError(f"no worker started in {START_SECONDS} s; `ray status` says what the cluster lacks")
            if ready[0] in self._starting:
                idle += self._started(ready[0]) * QUEUE
                continue
            actor, unit = running.pop(ready[0])
            try:
                result, records = ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from error
            except ray.exceptions.RayError as error:
                again.append(unit)
                if actor not in self._actors:
                    continue  # it died with an earlier unit, and this one was waiting
                deaths[id(unit)] += 1
                if deaths[id(unit)] == TRIES:
                    raise ValueError(
                        f"{TRIES} workers died ({_reason(error)}) while they computed the same unit; perhaps it needs "
                        "more memory than there is: use a smaller batch size or fewer workers. The unit: "
                        f"{_short(unit)}"
                    ) from error
                self.note(f"a worker died and is replaced; its unit is computed again ({_reason(error)})")
                idle = [other for other in idle if other is not actor]
                self._replace(actor)
                continue
            for record in records:
                logging.getLogger(record.name).handle(record)
            deaths.pop(id(unit), None)
            if actor in self._actors:
                idle.append(actor)
            yield result

    def _start(self, place: Place, *, anywhere: bool = False) -> None:
        """Start a worker, if need be on another machine; it can be used as soon as `_started` returns it."""
        import jax
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        environment = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
        if cache := jax.config.jax_compilation_cache_dir:
            environment["JAX_COMPILATION_CACHE_DIR"] = cache
        device = {None: {}, "GPU": {"num_gpus": 1}}.get(place.device, {"resources": {str(place.device): 1}})
        strategy = "DEFAULT" if anywhere else NodeAffinitySchedulingStrategy(place.node, soft=False)
        actor: Any = ray.remote(_Worker).options(num_cpus=0, scheduling_strategy=strategy, **device).remote()
        self._starting[actor.start.remote(place, environment, os.getcwd())] = actor, place

    def _started(self, ref: Any) -> list[Any]:
        """Return the worker that has started; none if it did not, then another one is started."""
        import ray

        actor, place = self._starting.pop(ref)
        try:
            ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from error
        except ray.exceptions.RayError as error:
            self._failures += 1
            if self._failures == TRIES:
                raise ValueError(f"{TRIES} workers in a row did not start: {_short(error)}") from error
            self._start(place, anywhere=True)  # the machine may be lost
            return []
        self._failures = 0
        self._actors[actor] = place
        return [actor]

    def _replace(self, actor: Any) -> None:
        import ray

        ray.kill(actor)  # it may live, behind a broken connection
        self._start(self._actors.pop(actor))


def _reason(error: Exception) -> str:
    """Return why a worker died, from Ray's message.

    >>> _reason(ValueError("The actor died. Worker exit detail: Worker exits with code 2. End of file. Some causes"))
    'Worker exits with code 2'
    """
    return _short(str(error).rpartition("exit detail:")[2].partition(". ")[0])


def _short(what: object) -> str:
    """Return a text as one line, without its end if it is long."""
    text = " ".join(str(what).split())
    return text if len(text) <= 200 else f"{text[:199]}…"
