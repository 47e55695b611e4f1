"""The arrows of ARCHITECTURE.md, held by reading every import in the tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

ARROWS: dict[str, set[str]] = {
    "cli": {"gateway", "controller", "predictors", "upstream", "envs", "rl"},
    "gateway": {"controller", "upstream", "predictors"},
    "controller": {"predictors"},
    "predictors": set(),
    "upstream": set(),
    "envs": {"controller", "upstream", "predictors"},
    "rl": {"envs", "controller", "upstream", "predictors"},
}
TRAINING = {"torch", "stable_baselines3", "gymnasium", "sklearn", "matplotlib", "onnx", "pandas", "ray", "vllm"}
UNSAFE = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
IMPURE = {"asyncio", "threading", "socket", "time", "random", "os", "subprocess", "multiprocessing", "concurrent"}

# What production, and the demo, start from; whatever these import serves too.
SERVING = ("gateway", "controller", "upstream", "envs/engines", "envs/tasks.py", "envs/answers.py", "envs/scenarios.py")
# The parts of the controller that own files, processes or threads.
CONTROLLER_IO = ("controller/store", "controller/actuators/", "controller/configuration")


class Import(NamedTuple):
    path: str
    line: int
    module: str
    inside_function: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def _imports(path: Path) -> Iterator[Import]:
    relative = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def visit(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(relative, child.lineno, alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{relative}:{child.lineno}: imports are absolute"
                module = child.module or ""
                yield Import(relative, child.lineno, module, inside)
                submodules = (f"{module}.{alias.name}" for alias in child.names)
                yield from (Import(relative, child.lineno, name, inside) for name in submodules if _file(name))
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, inside or is_function)

    return visit(tree, False)


def _tree(*roots: str) -> list[Import]:
    files = [ROOT / root if root.endswith(".py") else None for root in roots]
    paths = [f for f in files if f is not None]
    for root in roots:
        if not root.endswith(".py"):
            paths += sorted((ROOT / root).rglob("*.py"))
    return [imported for path in paths for imported in _imports(path)]


def _file(module: str) -> str | None:
    """Where one of our own modules is; ``None`` for anybody else's."""
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (ROOT / name).exists()), None)


def _serving() -> list[Import]:
    """Every import in what serves, and in what that imports of ours, and so on."""
    found = _tree(*SERVING)
    seen = {imported.path for imported in found}
    todo = [imported.module for imported in found]
    while todo:
        path = _file(todo.pop())
        if path is not None and path not in seen:
            seen.add(path)
            more = list(_imports(ROOT / path))
            found += more
            todo += [imported.module for imported in more]
    return found


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_imports_follow_the_arrows(package: str) -> None:
    wrong = [i for i in _tree(package) if i.top in ARROWS and i.top != package and i.top not in ARROWS[package]]
    assert not wrong, "\n".join(map(str, wrong))


def test_the_command_line_imports_the_other_packages_only_when_called() -> None:
    eager = [i for i in _tree("cli") if i.top in ARROWS and i.top != "cli" and not i.inside_function]
    assert not eager, "\n".join(map(str, eager))


def test_nothing_that_serves_imports_a_training_library() -> None:
    wrong = [i for i in _serving() if i.top in TRAINING]
    assert not wrong, "\n".join(map(str, wrong))


def test_nothing_that_serves_imports_a_trainer_of_ours() -> None:
    wrong = [i for i in _serving() if i.top in ARROWS and i.module.split(".")[-1] == "train"]
    assert not wrong, "\n".join(map(str, wrong))


def test_nothing_loads_pickles() -> None:
    wrong = [i for i in _tree(*ARROWS) if i.top in UNSAFE]
    assert not wrong, "\n".join(map(str, wrong))


def test_the_controller_core_is_sans_io() -> None:
    wrong = [i for i in _tree("controller") if i.top in IMPURE and not i.path.startswith(CONTROLLER_IO)]
    assert not wrong, "\n".join(map(str, wrong))


ENTRANCES = ("gateway.application", "envs.engines.worker", "cli.main", "cli.demo.runner", "cli.serve")


@pytest.mark.parametrize("module", ENTRANCES)
def test_serving_leaves_training_libraries_unloaded(module: str) -> None:
    """The same by running: what the imports of imports bring in counts too.

    LightGBM itself looks for scikit-learn and pandas and loads them where they are installed.
    """
    heavy = sorted(TRAINING - {"sklearn", "pandas"})
    code = f"import sys, {module}; print(' '.join(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
