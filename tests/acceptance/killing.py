"""packshot with a knife in it: the same command, in a process that kills itself at one named point of one job.

    python -m tests.acceptance.killing POINT JOB COMMAND...

COMMAND is `run MANIFEST`, `worker` or the like. JOB is the number of the job whose turn it must be, or `any`. The
product knows nothing of this: functions are wrapped from outside, before the command starts.
"""

from __future__ import annotations

import functools
import importlib
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Fate = Literal["not begun", "unpaid", "paid", "answered", "stored"]


@dataclass(frozen=True)
class Point:
    """Where the process dies.

    at:    what is wrapped, `module:name` or `module:Class.name`; several where two classes do the same work
    when:  before it begins; after it returned; or, of what is handed out piece by piece, when the piece after `piece`
           is asked for (`between`) or when all are out (`emptied`)
    hit:   at which of its calls for the job
    fate:  what the provider and the ledger know of the call then:
           not begun   no intent is on disk, so nothing can have been sent: the job is simply bought later
           unpaid      the intent is on disk and nothing was billed; nobody can know that, so it counts as unknown
           paid        billed, and the answer is lost: unknown as well
           answered    the answer is on disk: only the copy is repeated, the payment never
           stored      nothing is left to be done
    """

    at: tuple[str, ...]
    when: Literal["before", "after", "between", "emptied"]
    fate: Fate
    hit: int = 1
    piece: int = 2


EXECUTOR = "worker.executor:Executor"
LIMITERS = ("worker.limiter:LocalLimiter", "worker.limiter_redis:RedisLimiter")
STORAGES = ("worker.folder:FolderStorage", "worker.bucket:BucketStorage")


def _at(where: str | tuple[str, ...], name: str = "") -> tuple[str, ...]:
    return tuple(place + name for place in ((where,) if isinstance(where, str) else where))


POINTS: dict[str, Point] = {
    # from planned to claimed: nothing is spent, so nothing can be lost
    "inside the transaction that reserves": Point(_at("models.job:queue_all"), "after", "not begun"),
    "reserved, not handed to a worker": Point(_at("worker.pool:EmbeddedBroker.enqueue"), "before", "not begun"),
    "inside the transaction that claims": Point(_at("models.job:claim"), "after", "not begun"),
    "claimed": Point(_at(EXECUTOR, "._claim"), "after", "not begun"),
    "slot of the rate limit taken": Point(_at(LIMITERS, ".acquire"), "after", "not begun"),
    "inside the transaction of the intent": Point(_at("models.job:open_attempt"), "after", "not begun"),
    # the intent is on disk: from here on nobody can know
    "intent on disk, nothing sent": Point(_at("worker.provider:Provider.send"), "before", "unpaid"),
    "in the middle of the request": Point(_at("worker.provider:Letter.__iter__"), "between", "unpaid"),
    "last byte sent, no answer yet": Point(_at("worker.provider:Letter.__iter__"), "emptied", "paid"),
    "answer arrived, not recorded": Point(_at("worker.provider:Provider.send"), "after", "paid"),
    "inside the transaction of the answer": Point(_at("models.job:record_answer"), "after", "paid"),
    # the answer is on disk: the copy, again and again if need be
    "answer recorded": Point(_at(LIMITERS, ".succeeded"), "before", "answered"),
    "before the fetch": Point(_at("worker.results:Fetcher.fetch"), "before", "answered"),
    "fetched, not stored": Point(_at("worker.results:Fetcher.fetch"), "after", "answered"),
    "written beside its place": Point(_at("os:replace"), "before", "answered"),
    "its note in place, the picture not": Point(_at("os:replace"), "before", "answered", hit=2),
    "stored for one of two rows": Point(_at(STORAGES, ".put"), "after", "answered"),
    "stored for both rows, not recorded": Point(_at("models.output:record_output"), "before", "answered"),
    "inside the transaction of the first output": Point(_at("models.output:record_output"), "after", "answered"),
    "first of two outputs recorded": Point(_at(EXECUTOR, "._store"), "after", "answered"),
    "both outputs recorded": Point(_at(EXECUTOR, "._store"), "after", "answered", hit=2),
    "before the job is closed": Point(_at("models.job:succeed"), "before", "answered"),
    "inside the transaction that closes the job": Point(_at("models.job:succeed"), "after", "answered"),
    "closed": Point(_at(EXECUTOR, "._deliver"), "after", "stored"),
}
# The provider said no: a refusal that is not on disk is as unknown as any other answer, and free once it is there.
REFUSED: dict[str, Point] = {
    "refused, not recorded": Point(_at(EXECUTOR, "._settle"), "before", "unpaid"),
    "inside the transaction of the refusal": Point(_at("models.attempt:record_refusal"), "after", "unpaid"),
    "refusal recorded": Point(_at(EXECUTOR, "._settle"), "after", "not begun"),
}
# A second death, while what the first one left is being put in order.
RESCUED: dict[str, Point] = {
    "inside the transaction that finds the call unknown": Point(_at("models.attempt:record_unknown"), "after", "paid"),
    "inside the transaction that allows another try": Point(_at("models.ledger:allow_rebuy"), "after", "paid"),
    "rescued, not handed out again": Point(_at("scheduler.rescue:Rescue.after_crash"), "after", "paid"),
}
# Before any job: a batch that is written half is written anew.
PLANNING: dict[str, Point] = {
    "batch begun": Point(_at("models.batch:begin"), "after", "not begun"),
    "inside the transaction of the rows": Point(_at("models.batch:add_block"), "after", "not begun"),
    "rows written, batch not open": Point(_at("models.batch:open_"), "before", "not begun"),
}
# A person's word: it counts once it is on disk, and then once.
RELEASED: dict[str, Point] = {
    "inside the transaction of the release": Point(_at("models.job:release"), "after", "unpaid"),
    "released, not bought": Point(_at("scheduler.cli.buying:finish"), "before", "not begun"),
}
ALL = POINTS | REFUSED | RESCUED | PLANNING | RELEASED

_turn = threading.local()


def main(arguments: list[str]) -> None:
    point, job, command = ALL[arguments[0]], arguments[1], arguments[2:]
    arm(point, job)
    sys.argv = ["packshot", *command]
    if command[0] == "worker":
        sys.argv = ["worker", *command[1:]]
        runpy.run_module("worker", run_name="__main__")
        return
    from scheduler.cli import main as packshot

    packshot()


def arm(point: Point, job: str) -> None:
    """Wrap what the point names, and the executor, which says whose turn it is in each thread."""
    reached = functools.partial(_reached, job=job, count=iter(range(1, sys.maxsize)), hit=point.hit)
    for place in point.at:
        owner, name = _find(place)
        setattr(owner, name, _wrapped(getattr(owner, name), point, reached))
    executor, name = _find(f"{EXECUTOR}.execute")
    work = getattr(executor, name)

    def execute(self: Any, job_id: int) -> None:
        _turn.job = job_id
        try:
            work(self, job_id)
        finally:
            _turn.job = None

    setattr(executor, name, execute)


def _wrapped(function: Callable[..., Any], point: Point, reached: Callable[..., None]) -> Callable[..., Any]:
    if point.when in ("between", "emptied"):

        @functools.wraps(function)
        def pieces(*args: Any) -> Iterator[Any]:
            for number, piece in enumerate(function(*args), start=1):
                yield piece
                if point.when == "between" and number == point.piece:
                    reached(args)
            if point.when == "emptied":
                reached(args)

        return pieces

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if point.when == "before":
            reached(args)
        result = function(*args, **named)
        if point.when == "after":
            reached(args)
        return result

    return call


def _reached(args: tuple[Any, ...], *, job: str, count: Iterator[int], hit: int) -> None:
    """Die here, if it is the wanted job's turn: by whose thread it is, or else by the job's number given along."""
    mine = getattr(_turn, "job", None)
    turn = (
        [mine] if mine else next(([arg] if type(arg) is int else arg for arg in args if type(arg) in (int, list)), [])
    )
    if job != "any" and job not in map(str, turn):
        return
    if next(count) == hit:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal comes in its own time; nothing may happen before


def _find(place: str) -> tuple[Any, str]:
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


if __name__ == "__main__":
    main(sys.argv[1:])
