"""`python -m worker`: one worker of the cluster, as `packshot worker` starts it."""

import os
import sys

from worker.broker import app

app.worker_main(["worker", "--pool", "threads", "--hostname", f"packshot-{os.getpid()}@%h", *sys.argv[1:]])
