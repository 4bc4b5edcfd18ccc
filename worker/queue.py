"""The queue of the cluster: Celery on Redis, with every setting that matters written out.

A message is a job id, nothing else, and it may be lost or doubled without harm: a lost one is found by rescue, a
doubled one meets the claim. So messages are acknowledged early, carry no result, no ETA and no retry, and one lies
ready for each free hand (prefetch 1).

Facts behind the settings: the threads pool stops cleanly on SIGTERM and ignores time limits, so calls carry their own;
Celery sends unacknowledged messages again after the visibility time-out, which must therefore be longer than a message
can lie in a worker; a message published through a named exchange needs a binding kept in Redis, which a wiped Redis has
lost, so we publish straight to the queue.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from celery import Celery
from kombu import Connection, Queue

from models.settings import Settings
from worker.broker import redis_url

QUEUE = "packshot"
TASK = "packshot.execute"
VISIBILITY_S = 3600
RETRY_S = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}


def make_app(settings: Settings) -> Celery:
    """The Celery application. Raises SettingsError where PACKSHOT_REDIS_URL is not set."""
    app = Celery("packshot", broker=redis_url(settings), include=["worker.tasks"], set_as_current=True)
    app.conf.update(hard_settings(settings))
    app.amqp.Connection = PromptConnection
    return app


class PromptConnection(Connection):  # type: ignore[misc]
    """kombu waits 2 s, 4 s, ... 30 s between two tries to reach a broker that is away: a worker would stand still for
    up to half a minute after Redis is back."""

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        return super().ensure_connection(*args, **{**RETRY_S, **options})


def job_id_of(raw: bytes | str) -> int:
    """The job of a message as it lies in Redis: kombu's envelope, whose body is Base64 of `[[job id], {}, {}]`."""
    return int(json.loads(base64.b64decode(json.loads(raw)["body"]))[0][0])


def hard_settings(settings: Settings) -> dict[str, Any]:
    """What must not change with a release of Celery."""
    return {
        "task_default_queue": QUEUE,
        "task_queues": (Queue(QUEUE, exchange="", routing_key=QUEUE),),
        "task_default_exchange": "",
        "task_default_routing_key": QUEUE,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_publish_retry": False,
        "task_default_delivery_mode": "persistent",
        "task_send_sent_event": False,
        "worker_send_task_events": True,  # Flower and `celery events` see each job by its id
        "worker_pool": "threads",
        "worker_concurrency": settings.concurrency,
        "worker_prefetch_multiplier": 1,
        "worker_enable_remote_control": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_proc_alive_timeout": 10.0,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 4.0,
        "broker_heartbeat": 0,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_S,
            "socket_timeout": 10.0,
            "socket_connect_timeout": 4.0,
            "socket_keepalive": True,
            "retry_on_timeout": False,
            "health_check_interval": 10,
            "max_connections": 20,
        },
        "event_queue_ttl": 5.0,
        "event_queue_expires": 60.0,
        "control_queue_ttl": 60.0,
        "control_queue_expires": 60.0,
        "enable_utc": True,
        "timezone": "UTC",
    }
