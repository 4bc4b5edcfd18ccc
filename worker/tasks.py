"""The one task of the cluster, and the worker process around it."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from typing import Any

import structlog
from celery import shared_task
from celery.signals import worker_init, worker_ready, worker_shutting_down

from models import logs
from models import settings as settings_module
from models.database import Database
from models.errors import PackshotError
from models.lease import need_right_clock
from worker.broker import need_cluster
from worker.executor import Executor, utc_now
from worker.queue import TASK

log = structlog.get_logger()
_building = threading.Lock()
_executor: Executor | None = None


@shared_task(name=TASK, ignore_result=True, acks_late=False, max_retries=0)
def execute(job_id: int) -> None:
    """Take a job as far as it goes now; the ledger says how far that is."""
    executor().execute(job_id)


def executor() -> Executor:
    """This process's executor, made at the first need. Raises what the settings or the ledger have against it."""
    global _executor
    with _building:
        if _executor is None:
            from worker.build import build_executor

            settings = settings_module.load()
            logs.configure(settings.log_level)
            need_cluster(settings)
            database = Database(settings.database_url)
            database.ensure_current()
            need_right_clock(database, utc_now)
            owner = f"worker:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
            _executor = build_executor(settings, database, owner=owner)
        return _executor


@worker_init.connect
def _be_ready(**_: Any) -> None:
    """A worker that cannot work must not begin: it would take messages and do nothing with them.

    Celery only logs what goes wrong here, except for SystemExit.
    """
    try:
        owner = executor().owner  # makes the logs ready, too
        log.info("worker starts", owner=owner)
    except PackshotError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        log.exception("the worker cannot begin")
        raise SystemExit(1) from error


ready = threading.Event()  # this process has been a worker that works


@worker_ready.connect
def _say_ready(**_: Any) -> None:
    ready.set()


def broke_off() -> bool:
    """Did the worker end although it worked and nobody told it to leave?"""
    return ready.is_set() and _executor is not None and not _executor.stop.is_set()


@worker_shutting_down.connect
def _take_nothing_new(**_: Any) -> None:
    """SIGTERM: jobs that wait for their slot are given back at once; calls in flight are waited for and recorded."""
    if _executor is not None:
        _executor.stop.set()
        log.info("worker stops: no new work, recording the calls in flight", owner=_executor.owner)
