"""List the stages: `python -m lse_interp`."""

import ast
import sys
from pathlib import Path


def stages() -> dict[str, str]:
    """Return each stage's name and the first line of its docstring, without importing it."""
    folder = Path(__file__).parent
    found = {}
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("_"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = docstring.splitlines()[0] if docstring else ""
    return found


def main() -> int:
    """Print the list."""
    rows = stages()
    width = max(map(len, rows))
    sys.stdout.write("Stages; each has --help:\n\n")
    for name, line in rows.items():
        sys.stdout.write(f"  python -m lse_interp.{name:<{width}}  {line}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
