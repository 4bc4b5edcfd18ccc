"""YAML as a small tree of cells that remember their lines. Values stay text: `0123`, `no` and dates are what they say.

Only plain maps, lists and scalars. The tree is built from the parser's events instead of its objects: nothing is
constructed, no tag is resolved, and depth and size are counted while reading, aliases at every use, so that a
file of a few lines cannot unfold into gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from scheduler.problems import Cell, Problems, quoted
from scheduler.sources import TextFile, clean, usable_name

NODES_MAX = 500_000
DEPTH_MAX = 12
YAML_BYTES_MAX = 16 * 1024 * 1024

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times faster, the same events


@dataclass
class Branch:
    """A map (`entries`) or a list (`items`). nodes: size of what is below, aliases unfolded"""

    file: str
    line: int
    column: str
    is_map: bool
    entries: dict[str, Tree] = field(default_factory=dict)
    items: list[Tree] = field(default_factory=list)
    nodes: int = 1

    @property
    def place(self) -> Cell:
        return Cell("", self.file, self.line, self.column)


Tree: TypeAlias = Cell | Branch


class _Stop(Exception):
    def __init__(self, line: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.line, self.message, self.hint = line, message, hint


def read_tree(file: TextFile, problems: Problems) -> Branch | None:
    """The top-level map of a YAML file, or None and a problem where it cannot be read as one."""
    top = Cell("", file.shown, 1, "")
    builder = _Builder(file.shown, problems)
    try:
        text = file.path.read_text(encoding=file.encoding)
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problems.error(top._replace(line=line), f"not YAML: {error.problem or error.context}", _yaml_hint(error))
        return None
    except yaml.YAMLError as error:
        problems.error(top, f"not YAML: {str(error).splitlines()[0]}", "remove the character")
        return None
    except _Stop as stop:
        problems.error(top._replace(line=stop.line), stop.message, stop.hint)
        return None
    root = builder.root
    if root is None or (isinstance(root, Cell) and not root.text):
        problems.error(top, "an empty manifest", "write at least rows: and recipes:, see manifests/README.md")
        return None
    if isinstance(root, Cell) or not root.is_map:
        problems.error(top, "not a map of keys", "write `batch: NAME` and so on, see manifests/README.md")
        return None
    return root


def _yaml_hint(error: yaml.MarkedYAMLError) -> str:
    said = f"{error.problem} {error.context}"
    if "mapping values are not allowed" in said:
        return "put quotes around a value that holds ': '"
    if "\\t" in said or "tab" in said:
        return "indent with blanks, not tabs"
    if "could not find expected" in said or "did not find expected" in said:
        return "check the indentation and the quotes above this line"
    return "check the line and the one above it"


class _Builder:
    """Takes parser events one by one; `root` is the finished tree."""

    def __init__(self, shown: str, problems: Problems) -> None:
        self.shown, self.problems = shown, problems
        self.root: Tree | None = None
        self._open: list[tuple[Branch, str | None]] = []
        self._key: str | None = None  # of the innermost map: read, its value not yet
        self._skip = False  # that key is one to leave out
        self._anchors: dict[str, Tree] = {}
        self._open_anchors: list[str | None] = []
        self._nodes = 0
        self._documents = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _Stop(line, "a second document after ---", "write one manifest a file")
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _Stop(line, f"*{event.anchor} stands for nothing finished before it", "write the value itself")
            node = self._anchors[event.anchor]
            self._count(1 if isinstance(node, Cell) else node.nodes, line)
            self._put(node, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._refuse_tag(event, line)
            self._count(1, line)
            cell = self._cell(event, line)
            if event.anchor:
                self._anchors[event.anchor] = cell
            self._put(cell, line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._refuse_tag(event, line)
            self._count(1, line)
            if len(self._open) >= DEPTH_MAX:
                raise _Stop(line, f"nested deeper than {DEPTH_MAX} levels", "a manifest needs four")
            if self._in_map() and self._key is None:
                raise _Stop(line, "a list or a map where a key should stand", "write a plain key")
            is_map = isinstance(event, yaml.MappingStartEvent)
            branch = Branch(self.shown, line, self._column(), is_map, nodes=self._nodes)
            self._open.append((branch, self._key))
            self._open_anchors.append(event.anchor)
            self._key = None
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            branch, self._key = self._open.pop()
            branch.nodes = self._nodes - branch.nodes + 1
            anchor = self._open_anchors.pop()
            if anchor:
                self._anchors[anchor] = branch
            self._put(branch, line)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise _Stop(
                line, f"more than {NODES_MAX:,} values, aliases counted at every use", "put the rows into a CSV table"
            )

    def _refuse_tag(self, event: Any, line: int) -> None:
        if event.tag is not None:
            raise _Stop(line, f"the tag {quoted(event.tag)} is not allowed", "remove it: every value is text")

    def _in_map(self) -> bool:
        return bool(self._open) and self._open[-1][0].is_map

    def _column(self) -> str:
        if self._in_map():
            return self._key or ""
        return self._open[-1][0].column if self._open else ""

    def _cell(self, event: Any, line: int) -> Cell:
        column = self._column()
        if self._in_map() and self._key is None:
            return Cell(event.value.strip(), self.shown, line, column)
        text = "" if not event.style and event.value in ("~", "null", "Null", "NULL") else event.value
        cell = Cell(text, self.shown, line, column)
        cleaned = clean(text, cell, self.problems)
        return cell._replace(text=cleaned or "")

    def _put(self, node: Tree, line: int) -> None:
        if not self._open:
            self.root = node
            return
        branch = self._open[-1][0]
        if not branch.is_map:
            branch.items.append(node)
        elif self._key is None:
            self._take_key(branch, node, line)
        else:
            if not self._skip:
                branch.entries[self._key] = self._named(node, self._key)
            self._key, self._skip = None, False

    def _take_key(self, branch: Branch, node: Tree, line: int) -> None:
        if not isinstance(node, Cell) or not usable_name(node.text):
            raise _Stop(line, "a key that is empty or no short plain text", "write a plain key")
        self._key = node.text
        if node.text == "<<":
            raise _Stop(line, "merge keys (<<) are not read", "write shared values under defaults")
        if node.text in branch.entries:
            self.problems.error(Cell(node.text, self.shown, line, node.text), "this key stands twice", "remove one")
            self._skip = True

    def _named(self, node: Tree, key: str) -> Tree:
        """An alias is known by the key it stands under."""
        return node._replace(column=key) if isinstance(node, Cell) and node.column != key else node
