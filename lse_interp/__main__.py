"""One entry point for all commands: `lse alignment --lang mlt`.

Every command is also a module of its own: `python -m lse_interp.alignment --lang mlt`.
"""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from lse_interp import __version__
from lse_interp.core.errors import near_misses

__all__ = ["commands", "main"]


def commands() -> dict[str, str]:
    """Return each command's name and the first line of its docstring, without importing it."""
    folder = Path(__file__).parent
    found = {}
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("_"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = docstring.splitlines()[0] if docstring else ""
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named first, with the words that follow it; list the commands without one."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(_listing())
        return 0
    if name == "--version":
        sys.stdout.write(f"lse_interp {__version__}\n")
        return 0
    if name not in commands():
        sys.stderr.write(f"error: there is no command {name!r}. {near_misses(name, commands())}\n")
        return 2
    return importlib.import_module(f"lse_interp.{name}").main(words[1:])


def _listing() -> str:
    rows = commands()
    width = max(map(len, rows))
    lines = [f"  lse {name:<{width}}  {line}" for name, line in rows.items()]
    return "\n".join(
        [
            "Commands; each has --help. `python -m lse_interp.<command>` runs the same.",
            "",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
