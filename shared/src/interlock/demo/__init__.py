"""`interlock demo`: the main job on this machine, under load and under fire, with a ledger."""
