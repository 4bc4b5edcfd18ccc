"""`python -m worker`: one worker of the cluster, as `packshot worker` is."""

from worker.broker import work_for_cluster

work_for_cluster()
