"""The command line `lamppost` (typer, rich): one module for each group of commands.

Every command is loaded lazily by its own module, prints text or, with `--json`, one JSON value on
standard output. An error is one sentence on standard error. Exit status: 0 well; 1 something is
wrong and was found; 2 wrong usage or input; 3 something needed is not there (server, disk, file).
"""

from services.cli.app import run

__all__ = ["run"]
