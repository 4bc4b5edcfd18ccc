"""After the queue: claim, admit, call, record, copy, settle. Never imports `scheduler`."""
