"""The declaration of an algorithm, read from its file without importing the file, which would load torch.

Of the file's top-level statements only these are executed: `DECLARATION = …`, and those that define what it names,
imports too. `from another.algorithm import DECLARATION as PARENT` gives what is read from that file in the same way.
"""

from __future__ import annotations
import __future__

import ast
import importlib.machinery
import importlib.util
from collections.abc import Iterator
from functools import cache
from typing import Any

from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.declaration import Declaration
from mmaml.errors import ConfigError, Interrupted, described

NAME = "DECLARATION"
_COMPILED_WITH = __future__.annotations.compiler_flag  # which leaves annotations, and what they name, alone


def declaration_of(algorithm: str) -> Declaration:
    """What an algorithm declares. algorithm: as the configuration names it, "package.module:ClassName" too.

    Raises ConfigError if the class or its declaration is missing or invalid.
    """
    try:
        return _declaration_of(algorithm)
    except (KeyboardInterrupt, Interrupted, ConfigError):
        raise
    except BaseException as error:  # a user's statements may even call sys.exit
        raise ConfigError(
            "algorithm",
            f"'{algorithm}' cannot be read ({described(error)})",
            "check the name, and that its package is installed or its folder on PYTHONPATH",
        ) from error


@cache
def _declaration_of(algorithm: str) -> Declaration:
    module, _, cls = ALGORITHMS.get(algorithm, algorithm).partition(":")
    bindings = _bindings(module)
    if cls not in bindings:
        raise ConfigError("algorithm", f"'{algorithm}': module {module} defines no {cls}", "check the name")
    if NAME not in bindings:
        raise ConfigError(
            "algorithm", f"'{algorithm}': module {module} has no {NAME}", f"add one, such as {NAME} = Declaration()"
        )
    return _evaluated(module)


@cache
def _evaluated(module: str) -> Declaration:
    bindings = _bindings(module)
    if NAME not in bindings:
        raise ImportError(f"cannot import name '{NAME}' from '{module}'")
    namespace: dict[str, Any] = {"__name__": module}
    for statement in _needed(bindings):
        if isinstance(statement, ast.ImportFrom) and statement.names[0].name == NAME:
            alias = statement.names[0]
            namespace[alias.asname or alias.name] = _evaluated(_imported_from(statement, module))
        else:
            part = ast.Module([statement], [])
            exec(compile(part, f"<{NAME} of {module}>", "exec", _COMPILED_WITH, dont_inherit=True), namespace)
    found = namespace[NAME]
    if not isinstance(found, Declaration):
        raise TypeError(f"{NAME}: expected a Declaration, got a {type(found).__name__}")
    return found


@cache
def _bindings(module: str) -> dict[str, list[ast.stmt]]:
    """The top-level statements of a module by the names that they define; each import of one name."""
    bindings: dict[str, list[ast.stmt]] = {}
    for statement in ast.parse(_source(module)).body:
        for part in _one_by_one(statement):
            for name in _defined(part):
                bindings.setdefault(name, []).append(part)
    return bindings


def _one_by_one(statement: ast.stmt) -> list[ast.stmt]:
    """An import of several names as imports of one."""
    if isinstance(statement, ast.ImportFrom):
        parts: list[ast.stmt] = [ast.ImportFrom(statement.module, [name], statement.level) for name in statement.names]
    elif isinstance(statement, ast.Import):
        parts = [ast.Import([name]) for name in statement.names]
    else:
        return [statement]
    return [ast.copy_location(part, statement) for part in parts]


def _defined(statement: ast.AST) -> Iterator[str]:
    """Names that a statement defines, in its branches too, but not those local to a function or a class."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.iter_child_nodes(statement):
        if isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.stmt | ast.ExceptHandler):
            yield from _defined(node)
        else:
            yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _needed(bindings: dict[str, list[ast.stmt]]) -> list[ast.stmt]:
    """The statements that give DECLARATION its value, in the order of the file."""
    needed: dict[int, ast.stmt] = {}
    names = [NAME]
    for name in names:  # which grows on the way
        for statement in bindings.get(name, ()):
            if id(statement) not in needed:
                needed[id(statement)] = statement
                names += _used(statement)
    return sorted(needed.values(), key=lambda statement: (statement.lineno, statement.col_offset))


def _used(node: ast.AST) -> Iterator[str]:
    """Names that a statement uses, except in annotations."""
    if isinstance(node, ast.Name):
        yield node.id
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _used(child)


def _imported_from(statement: ast.ImportFrom, module: str) -> str:
    """The module that a statement of `module` imports from."""
    package = module if statement.level and _spec(module).submodule_search_locations else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)


def _source(module: str) -> str:
    source = getattr(_spec(module).loader, "get_source", lambda name: None)(module)
    if source is None:
        raise ImportError(f"there is no source of module '{module}'")
    return source


def _spec(module: str) -> importlib.machinery.ModuleSpec:
    """Where a module is, found without importing the packages that it is in, which may load torch."""
    name, folders, spec = "", None, None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = importlib.machinery.PathFinder.find_spec(name, folders) if spec else importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named '{name}'")
        folders = spec.submodule_search_locations or []
    assert spec is not None
    return spec
