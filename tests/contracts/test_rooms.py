"""Who may import whom: the table of rooms, doors only, and no heavy library where start-up or plain machines matter."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "weitiao"
EVERYBODY = {"cache", "errors", "hosts", "hubs", "imagefiles", "log", "seams", "recipe", "thin", "weitiao"}
ANY = None

MAY_IMPORT: dict[str, set[str] | None] = {
    "errors": set(),
    "log": set(),
    "cache": set(),
    "hosts": set(),
    "hubs": set(),
    "imagefiles": set(),
    "seams": set(),
    "thin": set(),
    "recipe": {"errors"},
    "runs": set(),
    "data": set(),
    "tasks": set(),
    "chat": set(),
    "model": set(),
    "encode": {"chat"},
    "train": {"encode"},
    "infer": {"chat"},
    "evaluate": {"tasks"},
    "export": {"model", "chat"},
    "track": set(),
    "report": set(),
    "demo": set(),
    "predict": {"data", "evaluate", "infer", "tasks", "runs"},
    "answering": ANY,
    "trying": ANY,
    "spread": ANY,
    "web": set(),
    "pipeline": ANY,
    "preview": ANY,
    "records": ANY,
    "finished": ANY,
    "compare": {"evaluate", "runs", "tasks"},
    "serve": {"infer", "chat", "model", "tasks"},
    "serving": ANY,
    "sweep": {"pipeline", "runs", "tasks"},
    "planning": ANY,
    "doctor": {"model", "runs"},
    "cli": ANY,
    "__main__": {"cli"},
}
"""Besides ``EVERYBODY``; files of the package itself count as rooms of one file."""

TORCH_FREE = {
    "cache",
    "errors",
    "hosts",
    "hubs",
    "imagefiles",
    "log",
    "seams",
    "recipe",
    "runs",
    "data",
    "tasks",
    "evaluate",
    "report",
    "track",
    "demo",
    "cli",
    "predict",
}
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "swanlab", "modelscope", "sklearn", "matplotlib"}
NOT_AT_START = {"recipe": HEAVY, "runs": HEAVY, "cli": HEAVY | {"rich"}, "errors": HEAVY, "log": HEAVY, "seams": HEAVY}
"""Libraries that a room imports inside functions, if at all."""

SHARED_WORDS = {"weitiao.recipe.sections", "weitiao.recipe.tasks"}
"""The recipe's sections: the one thing that may be imported past a door."""

FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    inner = path.relative_to(SOURCE)
    return "weitiao" if inner == Path("__init__.py") else inner.parts[0].removesuffix(".py")


def rooms_there() -> set[str]:
    return {room_of(path) for path in FILES} - {"weitiao"}


def imports(path: Path) -> Iterator[tuple[str, bool, int]]:
    """Every imported module, whether that happens when the file is loaded, and the line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_start = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        at_start.add(id(node))
        skipped = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        )
        stack.extend([] if skipped else ast.iter_child_nodes(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in at_start, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "weitiao":
                for alias in node.names:
                    yield ("weitiao" if alias.name == "__version__" else f"weitiao.{alias.name}"), id(node) in at_start, node.lineno
            else:
                yield str(node.module), id(node) in at_start, node.lineno


def test_every_room_is_in_the_table():
    assert rooms_there() <= set(MAY_IMPORT)


@pytest.mark.parametrize("room", sorted(rooms_there()))
def test_a_room_imports_only_what_it_may(room):
    allowed = MAY_IMPORT[room]
    wrong = []
    for path in FILES:
        if room_of(path) != room or allowed is ANY:
            continue
        everybody = EVERYBODY - {"recipe"} if room in ("errors", "log", "seams") else EVERYBODY
        for module, _, line in imports(path):
            if module.split(".")[0] == "weitiao":
                other = [*module.split("."), "weitiao"][1]
                if other not in everybody | allowed | {room}:
                    wrong.append(f"{path.relative_to(SOURCE)}:{line}: {module}")
    assert wrong == []


def test_nobody_imports_past_a_door():
    wrong = []
    for path in FILES:
        for module, _, line in imports(path):
            parts = module.split(".")
            if parts[0] == "weitiao" and len(parts) > 2 and parts[1] != room_of(path) and module not in SHARED_WORDS:
                wrong.append(f"{path.relative_to(SOURCE)}:{line}: {module}")
    assert wrong == []


@pytest.mark.parametrize("room", sorted(rooms_there()))
def test_heavy_libraries_are_imported_late_or_never(room):
    wrong = []
    for path in FILES:
        if room_of(path) != room:
            continue
        for module, at_start, line in imports(path):
            library = module.split(".")[0]
            if at_start and (library in NOT_AT_START.get(room, set()) or (library == "torch" and room in TORCH_FREE)):
                wrong.append(f"{path.relative_to(SOURCE)}:{line}: {module}")
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_tell_one_story(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= 320 or path.parent.name == "demo", f"{n_lines} lines"
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno - n_docstring_lines(node) >= 60
    ]
    assert long == []


def n_docstring_lines(node: ast.FunctionDef) -> int:
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return first.end_lineno - first.lineno + 1 if is_text else 0


def test_run_recipe_is_the_whole_path():
    tree = ast.parse((SOURCE / "pipeline.py").read_text(encoding="utf-8"))
    path = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run_recipe")
    assert path.end_lineno - path.lineno < 60
    assert not [node for node in ast.walk(path) if isinstance(node, ast.If | ast.IfExp | ast.For | ast.While)]
