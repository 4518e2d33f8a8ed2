"""``interlock bench lock``: Interlock's locks beside those of Redis and etcd, in one run.

`plan` says what is measured and `play` measures it: `servers` runs the brokers and the peers, a
`hand` is a client process, and `clients` has how each kind of lock is used. `result` and `table`
tell what was found.
"""
