"""What the code imports is declared, what is declared is imported, and every pin lies in its range."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "dateutil": "python-dateutil",
    "modelscope_hub": "modelscope",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}
"""Distributions that are not called like the package that they install."""

NEEDED_UNSEEN = {"accelerate"}
"""Not imported here, but transformers' Trainer does not work without it."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    return {normal(DISTRIBUTIONS.get(name, name)) for name in found - set(sys.stdlib_module_names) - {"weitiao"}}


def declared(group: list[str]) -> dict[str, Requirement]:
    return {normal(requirement.name): requirement for requirement in map(Requirement, group)}


REQUIRED = declared(PROJECT["dependencies"])
OPTIONAL = {
    name: made for extra, group in PROJECT["optional-dependencies"].items() if extra != "dev" for name, made in declared(group).items()
}
ELSEWHERE = {"openvino", "openvino-genai"}
"""Imported by scripts that run in an engine's own environment."""


def test_every_import_is_declared():
    assert imported() - set(REQUIRED) - set(OPTIONAL) - ELSEWHERE == set()


def test_every_dependency_is_used():
    assert set(REQUIRED) - imported() - NEEDED_UNSEEN == set()


@pytest.mark.parametrize("name", sorted({**REQUIRED, **declared(PROJECT["optional-dependencies"]["dev"])}))
def test_a_pin_lies_in_its_range(name):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    requirement = {**REQUIRED, **declared(PROJECT["optional-dependencies"]["dev"])}[name]
    pinned = {normal(pin): version for pin, version in pins.items()}
    assert requirement.specifier.contains(pinned[name])
