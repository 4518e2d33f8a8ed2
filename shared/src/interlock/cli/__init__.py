"""The command line. Each module adds the commands of one concern; nothing here decides anything.

Modules import what they need inside the commands: the line should answer at once.
"""

import io
import os
import sys

from interlock.cli import (
    artifact,
    base,
    bench,
    chaos,
    dlq,
    doctor,
    events,
    legacy,
    lock,
    machine,
    nodes,
    outbox,
    plugins,
    sync,
)
from interlock.errors import InterlockError

__all__ = ["main"]

app = base.app
machine.add(app)
chaos.add(app)
doctor.add(app)
events.add(app)
app.add_typer(bench.app, name="bench")
app.add_typer(legacy.app, name="legacy")
app.add_typer(dlq.app, name="dlq")
app.add_typer(lock.app, name="lock")
app.add_typer(nodes.app, name="nodes")
app.add_typer(outbox.app, name="outbox")
app.add_typer(artifact.app, name="artifact")
app.add_typer(sync.app, name="sync")
plugins.add(app)


def main() -> None:
    """The ``interlock`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if any("\udc80" <= character <= "\udcff" for word in sys.argv for character in word):
        base.fail(InterlockError("the arguments are not UTF-8 text"), 2)
    try:
        app()
    except InterlockError as error:
        base.fail(error)
    except BaseExceptionGroup as group:
        known, unknown = group.split(InterlockError)
        if unknown is not None or known is None:
            raise
        base.fail(base.first(known))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read us has enough. Python would complain once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        base.fail(error)
