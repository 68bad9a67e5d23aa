"""The command line: commands, and what they print."""

from study.cli.commands import main

__all__ = ["main"]
