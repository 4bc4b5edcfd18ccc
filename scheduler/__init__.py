"""Before the queue: commands, manifests, plans, dispatch, rescue, reports. Workers only through `worker.broker`."""
