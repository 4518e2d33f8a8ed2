"""Commands that installed services add to the command line, found by their entry points.

The kit imports no service. What cannot be loaded becomes a command that says why, so that one
broken distribution takes no other command away.
"""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

import typer
from typer.models import CommandInfo

from interlock.errors import InterlockError

__all__ = ["GROUP", "add"]

#: Entry points of this group name a command each: ``simulate = "package.cli:app"``. That module
#: imports no more than typer before a command runs, because every `interlock` loads it.
GROUP = "interlock.commands"


def add(app: typer.Typer, points: Iterable[EntryPoint] | None = None) -> None:
    """Add them to `app`, by name. `points`: by default what is installed.

    Names that `app` has already stay what they are. Of several that go by one name, the first one
    gains the commands of the others, but for those that it has.
    """
    found = entry_points(group=GROUP) if points is None else points
    taken = {each.name for each in app.registered_groups}
    taken |= {each.name for each in app.registered_commands}
    taken |= {
        each.callback.__name__.replace("_", "-")
        for each in app.registered_commands
        if each.callback is not None and not each.name
    }
    added: dict[str, typer.Typer] = {}
    for point in sorted(found, key=lambda point: (point.name, point.value)):
        if point.name in taken and point.name not in added:
            continue
        taken.add(point.name)
        try:
            plugin = point.load()
        # It is somebody else's code that runs here, and any of its errors is told to whoever
        # asks for the command.
        except Exception as error:  # noqa: BLE001
            if point.name not in added:
                _add_broken(app, point, f"{type(error).__name__}: {error}")
            continue
        if isinstance(plugin, typer.Typer):
            if point.name in added:
                _merge(added[point.name], plugin)
                continue
            added[point.name] = plugin
            app.add_typer(plugin, name=point.name)
        else:
            _add_broken(app, point, f"{point.value} is no typer application")


def _merge(into: typer.Typer, plugin: typer.Typer) -> None:
    """Add the commands of a plug-in to another one."""
    there = {_name(each) for each in into.registered_commands}
    into.registered_commands += [
        each for each in plugin.registered_commands if _name(each) not in there
    ]


def _name(command: CommandInfo) -> str | None:
    if command.name or command.callback is None:
        return command.name
    return command.callback.__name__.replace("_", "-")


def _add_broken(app: typer.Typer, point: EntryPoint, why: str) -> None:
    """A command in its place, which says what is wrong."""
    home = f" of {point.dist.name}" if point.dist is not None else ""

    @app.command(
        point.name,
        help=f"Cannot be loaded: {why}",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def broken() -> None:
        raise InterlockError(
            f"the command {point.name}{home} cannot be loaded: {why}. Install that distribution "
            "again, in the version of this one, or remove it."
        )
