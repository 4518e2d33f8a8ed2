"""What the node-agent adds to the command line: ``interlock agent``."""

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The agent of a node.")
