"""The cluster's queue on a real Redis: how much lies in it, also after the server was away."""

import pytest
from kombu.exceptions import OperationalError

from models.settings import Settings
from tests.servers.redis import RedisProcess
from worker.broker import CeleryBroker, QueueUnavailable
from worker.queue import make_app


def test_the_length_of_the_queue_counts_every_message_also_a_jobs_second_one():
    with RedisProcess() as redis:
        queue = CeleryBroker(Settings(PACKSHOT_REDIS_URL=redis.url, PACKSHOT_DATABASE_URL="postgresql://u@h/n"))
        assert queue.length() == 0

        for job_id in (1, 2, 2):
            queue.enqueue(job_id)
        assert queue.length() == 3

        redis.stop()
        with pytest.raises(QueueUnavailable, match="cannot be read"):
            queue.length()

        redis.start()
        assert queue.length() <= 3
        queue.close()


def test_a_worker_looks_for_a_redis_that_is_away_at_least_every_two_seconds(monkeypatch):
    # given
    waits: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)
    with RedisProcess() as redis:
        url = redis.url
    app = make_app(Settings(PACKSHOT_REDIS_URL=url))

    # when: as a worker looks for it
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _, wait_s: waits.append(wait_s), 6)

    # then
    assert waits == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
