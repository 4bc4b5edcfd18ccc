"""The loop of a run, with hands that do nothing and a ledger that can only be read."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from models.errors import LedgerFull, LedgerUnavailable
from scheduler import run
from worker.pool import ThreadBroke


class Hands(SimpleNamespace):
    """One job under way for ever, and a reason."""

    def under_way(self) -> int:
        return 1

    def rate(self, model: str) -> float:
        return 1.0

    def wait(self, timeout_s: float) -> None:
        pass

    def trouble(self):
        return self.reason


@pytest.fixture
def loop(monkeypatch):
    """The loop, given why no job comes to an end. Returns what was said, and how it ended."""

    def go(reason):
        monkeypatch.setattr(run.batch, "get", lambda *_: SimpleNamespace(id=1, code=None, state="open"))
        monkeypatch.setattr(run.report, "progress", lambda *_: SimpleNamespace(waiting=0, in_hand=1))
        monkeypatch.setattr(run.job, "stuck_copies", lambda *_: SimpleNamespace(jobs=0))
        monkeypatch.setattr(run, "LEDGER_PATIENCE_S", 0.0)
        said: list[str] = []
        display = SimpleNamespace(show=lambda *_: None, say=said.append)
        database = SimpleNamespace(read=lambda: nullcontext())
        idle = SimpleNamespace(poll=lambda: 0.0)
        stopping = threading.Event()
        stopping.wait = lambda _timeout=None: False
        with pytest.raises(type(reason)):
            run._loop(database, SimpleNamespace(id=1), display, Hands(reason=reason), idle, idle, stopping, buys=True)
        return said

    return go


def test_a_ledger_that_takes_no_writes_ends_the_run_though_it_can_be_read(loop):
    assert loop(LedgerUnavailable("the ledger is away")) == ["the ledger is away; trying again for 0 s"]


def test_a_ledger_without_room_ends_the_run_at_once(loop):
    (sentence,) = loop(LedgerFull("there is no room; make some"))

    assert sentence.startswith("stopping: there is no room; make some")


def test_a_thread_that_broke_off_ends_the_run_with_its_sentence(loop):
    assert loop(ThreadBroke("a job met an error nobody expected")) == []
