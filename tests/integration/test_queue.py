"""The cluster's queue on a real Redis: how much lies in it, also after the server was away."""

import pytest

from models.settings import Settings
from tests.servers.redis import RedisProcess
from worker.broker import CeleryBroker, QueueUnavailable


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
