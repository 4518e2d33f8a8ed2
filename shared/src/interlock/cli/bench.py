"""Commands that measure: the bus and the locks beside others, and the bus as a stream grows."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag

__all__ = ["app"]

app = typer.Typer(
    help="Measure on this machine: publish, consume, latency, locks, the normalizer, a growing "
    "stream.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PARTS = ("publish", "consume", "latency", "normalizer")

DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        exists=True,
        file_okay=False,
        writable=True,
        help="Where the brokers store, on the disk that shall be measured. "
        "Default: the folder for temporary files.",
    ),
]


def _end_well() -> None:
    """Have SIGTERM end the run as Ctrl-C does: brokers stopped, their folder removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@app.command()
def bus(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Under a minute: 256 B, one replica, the ratios and the normalizer."
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the rates into a .png or .svg file.")
    ] = None,
    sizes: Annotated[
        str, typer.Option(metavar="BYTES,…", help="Bytes of a body.")
    ] = "128,256,1024,8192,65536",
    replicas: Annotated[
        str, typer.Option(metavar="1,3", help="One server, three servers, or both.")
    ] = "1,3",
    sync: Annotated[
        str,
        typer.Option(metavar="always,default", help="When the broker syncs to disk, or both."),
    ] = "always,default",
    parts: Annotated[
        str, typer.Option("--cases", metavar="CASE,…", help="What to measure.")
    ] = ",".join(_PARTS),
    runs: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Runs of each case. Default: 5 where compared, else 3."),
    ] = None,
    run_s: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=0.02,
            max=60.0,
            help="Seconds of a run. Default: 0.8 where compared, else 0.3.",
        ),
    ] = None,
    folder: DirOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure the bus beside nats-py and FastStream, in one run on one broker.

    Starts brokers of its own in a temporary folder, and each client in a process of its own; the
    clients take turns, so that what else goes on here falls on all. Without --quick it takes some
    minutes: it says how long at the start.
    """
    from interlock.bench.cases import Choice
    from interlock.bench.play import play
    from interlock.bench.plot import check, draw
    from interlock.bench.table import show

    if plot is not None:
        check(plot)
    choice = Choice(
        quick=quick,
        sizes=_numbers("--sizes", sizes, 128, 1024 * 1024),
        replicas=_numbers("--replicas", replicas, 1, 3, but=(2,)),
        sync=cast(Any, _words("--sync", sync, ("always", "default"))),
        parts=cast(Any, _words("--cases", parts, _PARTS)),
        runs=runs,
        run_s=run_s,
    )
    _end_well()
    report = base.run(play(choice, parent=folder, say=_say))
    if plot is not None:
        draw(report, plot)
        _say(f"drawn: {plot}")
    if json:
        base.emit(report)
    else:
        show(report)
    raise typer.Exit(1 if report.failed else 0)


@app.command()
def lock(
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: fewer rounds, shorter runs.")
    ] = False,
    replicas: Annotated[
        str, typer.Option(metavar="1|3", help="One server or three, of ours and of etcd.")
    ] = "1",
    folder: DirOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure the locks beside those of Redis and etcd, in one run.

    Uncontended, handed over between processes, and by 1, 16 and 64 clients. Starts a broker with
    the lock service, redis-server and etcd, each with an empty store in a temporary folder, and
    stops them at the end. A peer that is not installed is left out, with a word on what to install.
    """
    from interlock.bench.locks.play import play
    from interlock.bench.locks.table import show

    numbers = _numbers("--replicas", replicas, 1, 3, but=(2,))
    if len(numbers) != 1:
        raise typer.BadParameter("one server or three, not both", param_hint="--replicas")
    _end_well()
    report = base.run(play(quick=quick, replicas=numbers[0], parent=folder, say=_say))
    if json:
        base.emit(report)
    else:
        show(report)
    raise typer.Exit(1 if report.failed else 0)


@app.command()
def growth(
    messages: Annotated[
        int,
        typer.Option(
            "--messages", min=100_000, max=100_000_000, help="Messages stored at the end."
        ),
    ] = 1_000_000,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Windows measured at each size.")] = 5,
    folder: DirOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure whether publishing and consuming slow down as a stream grows.

    Publishes and consumes windows of messages while the stream holds 100,000, and again while it
    holds --messages. Says how much disk it needs, and refuses when there is less.
    """
    from interlock.bench.growth import play, show

    _end_well()
    report = base.run(play(messages, runs=runs, parent=folder, say=_say))
    if json:
        base.emit(report)
    else:
        show(report)


def _numbers(
    option: str, text: str, least: int, most: int, but: tuple[int, ...] = ()
) -> tuple[int, ...]:
    found = []
    for part in text.split(","):
        if not part.strip().isdigit() or not least <= int(part) <= most or int(part) in but:
            raise typer.BadParameter(
                f"{part!r} is no number from {least} to {most}"
                + (f" other than {', '.join(map(str, but))}" if but else ""),
                param_hint=option,
            )
        found.append(int(part))
    return tuple(dict.fromkeys(found))


def _words(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    found = [part.strip() for part in text.split(",")]
    for word in found:
        if word not in known:
            raise typer.BadParameter(f"{word!r} is none of {', '.join(known)}", param_hint=option)
    return tuple(dict.fromkeys(found))


@app.command()
def fsync(
    late: Annotated[
        bool, typer.Option("--late", help="Trace a broker that syncs now and then, to compare.")
    ] = False,
    folder: DirOption = None,
    json: JsonFlag = False,
) -> None:
    """Trace the broker's system calls: is a message synced before it is acknowledged?

    Needs strace. Exits 1 when an acknowledgement went out first.
    """
    from interlock.bench.fsync import trace_sync

    report = base.run(trace_sync(sync_always=not late, folder=folder))
    trace = report.trace
    if json:
        base.emit(
            {
                "ok": report.ok,
                "sync": report.sync,
                "singles": report.singles,
                "batches": report.batches,
                "batch_messages": report.batch_messages,
                "acknowledgements": trace.acknowledgements,
                "writes": trace.writes,
                "syncs": trace.syncs,
                "acknowledged_before_sync": trace.too_early,
            }
        )
    else:
        sys.stdout.write(
            f"{report.singles} messages one by one and {report.batches} batches of "
            f"{report.batch_messages}, sync {report.sync}: {trace.writes} writes to the stream, "
            f"{trace.syncs} syncs, {trace.acknowledgements} acknowledgements, "
            f"{trace.too_early} of them before the sync\n"
        )
    if not report.ok:
        sys.exit(1)


@app.command()
def sync(
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: less of everything.")
    ] = False,
    runs: Annotated[int, typer.Option(min=1, max=20, help="Of each comparison.")] = 3,
    folder: DirOption = None,
    json: JsonFlag = False,
) -> None:
    """Move artifacts between agents on this machine, beside rsync and SFTP over the same sshd.

    Starts a broker, the services, nine agents and an sshd of its own, all on the loopback. Ours is
    timed from the request to the last receipt.
    """
    from interlock.bench.sync import play as bench

    _end_well()
    size = bench.QUICK if quick else bench.Size(runs=runs)
    found = base.run(bench.play(size, _say, parent=folder))
    if json:
        base.emit(found)
    else:
        bench.show(found)


@app.command()
def health(
    agents: Annotated[
        int, typer.Option(min=10, max=50_000, help="Simulated agents, one heartbeat a second each.")
    ] = 10_000,
    kills: Annotated[
        int, typer.Option(min=0, max=5_000, help="So many of them are killed, one after the other.")
    ] = 100,
    seconds: Annotated[
        float, typer.Option(min=10, max=3_600, help="How long it is measured.")
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="Kill the same ones again.")] = 1,
    json: JsonFlag = False,
) -> None:
    """One health monitor and thousands of agents: its cost, and how soon it notices a death.

    Starts a broker and a monitor of its own; the agents are simulated, their heartbeats are not.
    Exits 1 when a death or a heartbeat was missed, or somebody was declared lost who lives.
    """
    from interlock.bench import health as bench

    _end_well()
    if kills >= agents:
        raise typer.BadParameter(f"at most {agents - 1} of {agents}", param_hint="--kills")
    found = base.run(bench.play(agents, kills=kills, seconds=seconds, seed=seed, say=_say))
    if json:
        base.emit(found)
    else:
        bench.show(found)
    if found.detected < found.kills or found.false_lost or found.heartbeats_missed:
        sys.exit(1)
