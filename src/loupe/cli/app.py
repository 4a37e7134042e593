"""Put the commands together; each has a file of its own, and a line here."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from loupe.cli.harvest import harvest
from loupe.cli.output import print_error, warnings_told
from loupe.cli.run import run
from loupe.cli.show import show
from loupe.cli.validate import validate
from loupe.errors import LoupeError


class Commands(TyperGroup):
    """Commands that end with exit status 1 and the text of an error, where loupe raises one."""

    def invoke(self, ctx: Any) -> Any:
        """Do what the command says."""
        try:
            with warnings_told():
                return super().invoke(ctx)
        except LoupeError as error:
            print_error(str(error))
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands,
    help="Show, run and validate intervention graphs that were saved to files, and write activations to files.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (show, run, validate, harvest):
    app.command()(command)
