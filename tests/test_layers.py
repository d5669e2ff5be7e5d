"""Imports point one way, onnxruntime and matplotlib load only where they are used."""

from __future__ import annotations

import ast
import graphlib
import pathlib

import pytest

import onnx_structdrop

ROOT = pathlib.Path(onnx_structdrop.__file__).parent

# From the ground up; a part may import from its own line's earlier entries and from lines above.
LAYERS = [
    ["errors"],
    ["schema"],
    ["specs"],
    ["bodies", "functions", "reference", "native"],
    ["graph"],
    ["training", "mc"],
    ["plot"],
    ["console"],
    ["demo", "bench"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

# Importing these takes long, or opens what a reader of graphs has no use for.
ON_USE = {"onnxruntime", "matplotlib"}


def modules():
    """Yield the dotted name inside the package and the syntax tree of every module."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


MODULES = [pytest.param(name, tree, id=name or "__init__") for name, tree in modules()]


def is_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(tree, *, inside_functions, for_types):
    """Yield the absolute names that a module imports."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written absolutely"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            left_out = (isinstance(node, ast.FunctionDef) and not inside_functions) or (
                is_for_types(node) and not for_types
            )
            if left_out:
                continue
            pending += ast.iter_child_nodes(node)


def own(names):
    return {name.removeprefix("onnx_structdrop.") for name in names if "onnx_structdrop." in name}


def part(name):
    return name.split(".")[0]


@pytest.mark.parametrize(("name", "tree"), MODULES)
def test_direction(name, tree):
    if not name:
        return  # The package itself re-exports from everywhere.
    assert part(name) in RANK, f"give {part(name)} its place in LAYERS"
    for imported in own(imports(tree, inside_functions=True, for_types=True)):
        if part(imported) in RANK and part(imported) != part(name):
            assert RANK[part(imported)] <= RANK[part(name)], f"{name} must not import {imported}"


def test_parts_of_one_layer_do_not_import_each_other_in_circles():
    found = {name: tree for name, tree in modules() if name}
    graph = {
        name: {
            # "from package import name" depends on package.name where that is a module.
            other if other in found else other.rpartition(".")[0]
            for other in own(imports(tree, inside_functions=True, for_types=False))
        }
        for name, tree in found.items()
    }
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(("name", "tree"), MODULES)
def test_heavy_imports_wait(name, tree):
    top = {part(other) for other in imports(tree, inside_functions=False, for_types=False)}
    assert not top & ON_USE


@pytest.mark.parametrize(("name", "tree"), MODULES)
def test_nothing_depends_on_tests(name, tree):
    everything = {part(other) for other in imports(tree, inside_functions=True, for_types=True)}
    assert not everything & {"tests", "conftest", "pytest", "hypothesis"}


@pytest.mark.parametrize(("name", "tree"), MODULES)
def test_modules_stay_readable(name, tree):
    lines = max((node.end_lineno or 0 for node in tree.body), default=0)
    assert lines <= 390, "a module has one concern: split it"
