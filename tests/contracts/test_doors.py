"""Public names, and that their documentation says what goes in, what comes out and what is raised."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import weitiao

SOURCE = Path(weitiao.__file__).parent
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def public_functions() -> list[tuple[str, str, object]]:
    found = []
    for room in ROOMS:
        door = importlib.import_module(f"weitiao.{room}")
        found.extend((room, name, getattr(door, name)) for name in door.__all__ if inspect.isfunction(getattr(door, name)))
    return found


FUNCTIONS = public_functions()
IDS = [f"{room}.{name}" for room, name, _ in FUNCTIONS]


@pytest.mark.parametrize("room", ROOMS)
def test_a_door_declares_its_names_and_says_what_it_does_not_know(room):
    door = importlib.import_module(f"weitiao.{room}")
    assert door.__all__ == sorted(door.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(door, name) for name in door.__all__)
    assert room == "cli" or "Knows nothing of" in " ".join(door.__doc__.split())


@pytest.mark.parametrize("function", [function for _, _, function in FUNCTIONS], ids=IDS)
def test_a_public_function_is_documented(function):
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    assert text, "no docstring"
    if signature.parameters:
        assert "\nArgs:\n" in text
    missing = [parameter for parameter in signature.parameters if f"    {parameter}: " not in text and f"    **{parameter}: " not in text]
    assert missing == []
    if signature.return_annotation not in (None, "None"):
        assert "\nReturns:\n" in text or "\nYields:\n" in text


@pytest.mark.parametrize("function", [function for _, _, function in FUNCTIONS], ids=IDS)
def test_what_a_public_function_raises_is_documented(function):
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id[0].isupper()
    }
    text = inspect.getdoc(function) or ""
    assert {error for error in raised if f"    {error}: " not in text} == set()
