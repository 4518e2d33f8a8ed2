"""Commands that installed services add to the command line."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest
import typer
from typer.testing import CliRunner

from interlock.cli import plugins
from interlock.errors import InterlockError


def module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: object) -> None:
    made = types.ModuleType(name)
    for key, value in attributes.items():
        setattr(made, key, value)
    monkeypatch.setitem(sys.modules, name, made)


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, plugins.GROUP)


def application() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def own() -> None:
        typer.echo("ours")

    @app.command("other")
    def _other() -> None:
        typer.echo("other")

    return app


def plugin() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def fleet() -> None:
        typer.echo("theirs")

    @app.command()
    def second() -> None: ...

    return app


def test_a_plug_in_is_a_group_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "a_plugin", app=plugin())
    app = application()
    plugins.add(app, [point("simulate", "a_plugin:app")])
    done = CliRunner().invoke(app, ["simulate", "fleet"])
    assert (done.exit_code, done.output) == (0, "theirs\n")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module_here:app", "No module named"),
        ("a_plugin:nothing", "has no attribute"),
        ("a_plugin:number", "is no typer application"),
    ],
)
def test_a_broken_plug_in_says_so_and_breaks_nothing_else(
    monkeypatch: pytest.MonkeyPatch, value: str, why: str
) -> None:
    module(monkeypatch, "a_plugin", number=7)
    app = application()
    plugins.add(app, [point("broken", value)])
    run = CliRunner()
    assert run.invoke(app, ["own"]).output == "ours\n"
    assert "Cannot be loaded" in run.invoke(app, ["--help"]).output
    done = run.invoke(app, ["broken", "fleet", "--nodes", "3"])
    assert done.exit_code == 1
    assert isinstance(done.exception, InterlockError)
    assert why in str(done.exception)
    assert "Install" in str(done.exception)


def test_a_plug_in_takes_no_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "a_plugin", app=plugin())
    app = application()
    plugins.add(app, [point(name, "a_plugin:app") for name in ("own", "other", "twice", "twice")])
    run = CliRunner()
    assert run.invoke(app, ["own"]).output == "ours\n"
    assert run.invoke(app, ["other"]).output == "other\n"
    assert run.invoke(app, ["twice", "fleet"]).output == "theirs\n"


def test_plug_ins_of_one_name_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    second = typer.Typer()

    @second.command()
    def more() -> None:
        typer.echo("more")

    module(monkeypatch, "a_plugin", app=plugin())
    module(monkeypatch, "b_plugin", app=second)
    app = application()
    plugins.add(app, [point("shared", "b_plugin:app"), point("shared", "a_plugin:app")])
    run = CliRunner()
    assert run.invoke(app, ["shared", "fleet"]).output == "theirs\n"
    assert run.invoke(app, ["shared", "more"]).output == "more\n"
