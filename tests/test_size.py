"""A module fits in a head (400 lines), a function on a screen (60)."""

import ast
from pathlib import Path

import chatwright

ROOT = Path(chatwright.__file__).parent


def test_modules_are_short():
    long = {
        p.name: n for p in ROOT.rglob("*.py") if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_functions_are_short():
    long = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
                    long[f"{path.name}:{node.name}"] = lines
    assert not long
