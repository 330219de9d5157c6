"""The commands. Each is a file of this folder with a frozen dataclass `Command`: its fields are the options, its
docstring the help, and `run` does it. These files import nothing heavy at their top, so that `skilloc --help` answers
at once. To add a command, add its file and its name to `COMMANDS`.
"""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from importlib import import_module
from typing import Any

import tyro

from skilloc.mistakes import Mistake

COMMANDS = (
    "demo",
    "effects",
    "locality",
    "removal",
    "positions",
    "circuit",
    "localize",
    "prune",
    "relearn",
    "export",
    "show",
    "report",
    "compare",
    "check",
    "evaluate",
    "fetch",
    "sweep",
)
ABOUT = """Which parts of a network carry a skill, how local is it, and what happens when they are taken away?

`skilloc --version` says which one this is; `skilloc --tyro-print-completion bash` (zsh, tcsh) prints what completes its
options in a shell."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command line.

    An error of the user's making ends it with one or two lines on stderr and exit status 2; anything else is a bug, and
    keeps its traceback.

    Args:
        args: the arguments; those of the process if not given.
    """
    if list(sys.argv[1:] if args is None else args) == ["--version"]:
        import skilloc

        print(f"skilloc {skilloc.__version__}")
        return
    # The hub's client reports each of its attempts; what came of them is told by the one error at the end.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if "" not in sys.path:
        sys.path.append("")  # where a loss of the user's own may lie: --loss module:function
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file may be called what is no text
    try:
        commands = {name: import_module(f"skilloc.cli.{name}").Command for name in COMMANDS}
        config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)
        command = tyro.extras.subcommand_cli_from_dict(
            commands, prog="skilloc", description=ABOUT, args=args, config=config
        )
        with held(command):
            command.run()
    except KeyboardInterrupt as stopped:
        said = str(stopped) or "stopped; what was measured is kept, and the same command goes on"
        print(f"\nskilloc: {said}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has left, as `head` does; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (Mistake, OSError) as error:
        print(f"skilloc: {told(error)}", file=sys.stderr)
        sys.exit(2)


def held(command: Any) -> AbstractContextManager[Any]:
    """Hold what a command writes while it works (`store.at_work`), where it says what that is."""
    places = command.places_written() if hasattr(command, "places_written") else ()
    if not places:
        return nullcontext()
    from skilloc import store

    stack = ExitStack()
    for place, inside in places:
        stack.enter_context(store.at_work(place, inside=inside))
    return stack


def told(error: Exception) -> str:
    """Return an error's message on one line, without the number that the system gives it."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # What a file or a name holds could move the cursor, or clear the screen.
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in " ".join(said.split()))
