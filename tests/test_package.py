"""The package as a whole: import direction, cheap imports, the list of stages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lse_interp
from lse_interp.__main__ import commands, main

PACKAGE = Path(lse_interp.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {
    "core": 0,
    "artifacts": 1,
    "models": 2,
    "data": 2,
    "counting": 3,
    "neurons": 4,
    "subnetworks": 5,
    "training": 5,
    "analysis": 6,
    "tasks": 6,
    "plotting": 7,
}
COMMAND = 8


def _level(parts: tuple[str, ...]) -> int:
    return LEVELS.get(parts[0], COMMAND) if parts else -1


def _imports(path: Path) -> set[tuple[str, ...]]:
    """Modules of this package that a file imports at its top level."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {tuple(name.split(".")[1:]) for name in names if name.startswith("lse_interp")}
    return {parts for parts in found if parts}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts
    if own[0].startswith("__"):
        return
    for parts in _imports(path):
        assert _level(parts) <= _level(own), f"{own} imports {parts}"
        siblings = {own[0], parts[0]}
        assert siblings != {"models", "data"}, f"{own} imports {parts}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_say_what_they_are_for(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    # Postponed annotations would turn the shape checks of dataclass fields off.
    assert "from __future__ import annotations" not in text


def test_only_plotting_imports_matplotlib():
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] == "plotting":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            + [alias.name for alias in node.names]
        }
        assert not names & {"matplotlib", "seaborn"}, path


def test_importing_the_package_imports_no_torch():
    code = "import sys, lse_interp; sys.exit(int('torch' in sys.modules or 'numpy' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_resolves():
    for name in lse_interp.__all__:
        assert getattr(lse_interp, name) is not None


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lse_interp.nonsense  # noqa: B018


def test_main_lists_the_commands(capsys):
    assert {"activations", "lape", "overlap", "ablation", "alignment"} <= set(commands())
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name, line in commands().items():
        assert f"  lse {name}" in shown
        assert line
        assert line in shown


def test_main_runs_a_command(capsys):
    missing = ["overlap", "--neurons", "missing.safetensors"]
    assert main(missing) == 2
    assert "missing.safetensors does not exist" in capsys.readouterr().err
    assert main(["aligment", "--lang", "mlt"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no command 'aligment'. Did you mean alignment?\n"
    )
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lse_interp {lse_interp.__version__}\n"


COMMANDS = sorted(path for path in PACKAGE.glob("*.py") if not path.name.startswith("_"))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_holds_config_run_and_main(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert [name for name in names if not name.startswith("_")] == ["Config", "run", "main"]
    assert len([name for name in names if name.startswith("_")]) <= 2
    assert len(text.splitlines()) <= 150


def test_no_file_name_stands_in_two_folders():
    homes = {}
    for path in MODULES:
        if path.stem != "__init__":
            homes.setdefault(path.stem, []).append(path.relative_to(PACKAGE).parts[0])
    commands = {path.stem for path in COMMANDS}
    # A command and the measurement it runs share a name.
    allowed = {name: 2 if name in commands else 1 for name in homes}
    assert {name: found for name, found in homes.items() if len(found) > allowed[name]} == {}


def test_no_file_name_shadows_a_library():
    libraries = {"torch", "nnsight", "transformers", "datasets", "numpy", "pandas", "random"}
    assert libraries.isdisjoint(path.stem for path in MODULES)


def test_no_behaviour_depends_on_what_a_model_is_called():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "embedded" in ast.unparse(node):
                assert "model" not in ast.unparse(node.left).rpartition(".")[2], (
                    f"{path.name}:{node.lineno} {ast.unparse(node)}"
                )
                assert "model.name" not in ast.unparse(node), f"{path.name}:{node.lineno}"
