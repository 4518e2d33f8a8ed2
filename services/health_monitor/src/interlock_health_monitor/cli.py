"""What the health-monitor adds to the command line: ``interlock simulate``."""

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Try the decisions on a simulated fleet.")
