"""A command, run in this process as the console script runs it."""

import argparse
from types import ModuleType


def run_command(module: ModuleType, *arguments: object) -> int:
    """The exit status of a command's module with these arguments."""
    parser = argparse.ArgumentParser()
    module.register(parser)
    return module.run(parser.parse_args([str(argument) for argument in arguments]))
