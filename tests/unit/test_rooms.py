"""The import directions of the house: models knows nobody, workers never look back at the scheduler."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("models", "worker", "scheduler", "emulator")

MAY_IMPORT = {
    "models": ("models",),
    "worker": ("worker", "models"),
    "scheduler": ("scheduler", "worker.broker", "models"),
    "emulator": ("emulator", "models.catalogue"),
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_where_it_may(room: str):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0] in ROOMS
        and not any(name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_IMPORT[room])
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_third_party_import_is_declared(room: str):
    import sys
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name.split("[")[0].split(">")[0].split("=")[0].strip().lower() for name in project["dependencies"]}
    called = {"yaml": "pyyaml", "pil": "pillow"}
    used = {name.split(".")[0] for path in (ROOT / room).rglob("*.py") for name in imports(path)}
    foreign = {called.get(name.lower(), name.lower()) for name in used - set(ROOMS) - set(sys.stdlib_module_names)}
    assert foreign - declared == set()
