from interlock.bench.trace import sync_order

BLOCK = "10</s/jetstream/$G/streams/T/msgs/1.blk>"
STAGED = "11</s/jetstream/$G/streams/T/batches/h9/msgs/1.blk>"
ACK = '9<TCP:[1->2]>, [{iov_base="MSG _I.1 1 23\\r\\n{\\"stream\\":\\"T\\",\\"seq\\":2'


def test_a_sync_before_the_acknowledgement() -> None:
    order = sync_order(
        [
            f'7  10:00:00.1 pwrite64({BLOCK}, "x", 1, 0) = 1',
            f"7  10:00:00.2 fsync({BLOCK}) = 0",
            f"7  10:00:00.3 writev({ACK}) = 68",
        ],
        "T",
    )
    assert (order.acknowledgements, order.writes, order.syncs, order.too_early) == (1, 1, 1, 0)


def test_an_acknowledgement_without_a_sync() -> None:
    lines = [f'7 pwrite64({BLOCK}, "x", 1, 0) = 1', f"7 writev({ACK}) = 68"]
    assert sync_order(lines, "T").too_early == 1


def test_an_acknowledgement_during_the_sync() -> None:
    order = sync_order(
        [
            f'7 pwrite64({BLOCK}, "x", 1, 0) = 1',
            f"7 fsync({BLOCK} <unfinished ...>",
            f"8 writev({ACK}) = 68",
            "7 <... fsync resumed>) = 0",
        ],
        "T",
    )
    assert (order.syncs, order.too_early) == (1, 1)


def test_staging_files_and_other_streams_do_not_count() -> None:
    order = sync_order(
        [
            f'7 pwrite64({STAGED}, "x", 1, 0) = 1',
            f'7 pwrite64({BLOCK}, "x", 1, 0) = 1',
            f"7 fsync({STAGED}) = 0",
            f"7 writev({ACK}) = 68",
            "nonsense",
        ],
        "T",
    )
    assert (order.writes, order.syncs, order.too_early) == (1, 0, 1)
    assert sync_order([f"7 writev({ACK}) = 68"], "U").acknowledgements == 0
