"""A simulated fleet under the real decisions: clock, network and hosts are made up, no more.

`world` draws what happens to whom, `clock` how attentive the monitor is meanwhile, `traces` the
heartbeats as they come to it, `watch` runs the monitor on them, `baselines` other detectors, and
`report` counts. A run depends on its options alone, not on how many processes share the work.
"""
