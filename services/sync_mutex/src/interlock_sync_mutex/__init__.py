"""sync-mutex: locks with fencing tokens, fair queues and slots."""
