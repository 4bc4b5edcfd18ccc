"""The embedded engine's thread pool, without an engine."""

from types import SimpleNamespace

from structlog.testing import capture_logs

from worker import pool


def test_an_error_that_ends_a_job_s_thread_is_logged(monkeypatch):
    def broken(job_id: int) -> None:
        raise ZeroDivisionError(f"job {job_id}")

    monkeypatch.setattr(pool, "build_executor", lambda *_, **__: SimpleNamespace(execute=broken))
    broker = pool.EmbeddedBroker(SimpleNamespace(concurrency=1), None, owner="me")

    with capture_logs() as logs:
        broker.enqueue(7)
        broker.join()

    (entry,) = logs
    assert entry["log_level"] == "error"
    assert isinstance(entry["exc_info"], ZeroDivisionError)
    assert broker.free_slots() == 1
    assert "ZeroDivisionError: job 7" in str(broker.trouble())
