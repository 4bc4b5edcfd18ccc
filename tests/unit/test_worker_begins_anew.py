"""A worker that Celery gave up on begins anew; one that was told to leave, or never began, does not."""

import sys
from types import SimpleNamespace

import pytest

from worker import broker, tasks


@pytest.mark.parametrize(
    ("ready", "told_to_leave", "begins_anew"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_only_a_worker_that_broke_off_begins_anew(monkeypatch, ready: bool, told_to_leave: bool, begins_anew: bool):
    # given
    begun: list[list[str]] = []
    end = SimpleNamespace(worker_main=lambda _: sys.exit(1))
    monkeypatch.setattr(broker, "_cluster_app", lambda: end)
    monkeypatch.setattr("os.execv", lambda _program, arguments: begun.append(arguments))
    monkeypatch.setattr(tasks, "ready", SimpleNamespace(is_set=lambda: ready))
    monkeypatch.setattr(tasks, "_executor", SimpleNamespace(stop=SimpleNamespace(is_set=lambda: told_to_leave)))

    # when
    with pytest.raises(SystemExit):
        broker.work_for_cluster()

    # then
    assert begun == ([[sys.executable, "-P", "-m", "worker"]] if begins_anew else [])
