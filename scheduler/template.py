"""Templates of prompts and output paths: `{name}`, and `{{` `}}` for the braces themselves. Nothing else.

A name is looked up as it stands, so `{a.b}`, `{a!r}` and `{a:>9}` are names of columns that do not exist:
untrusted text can reach no attribute and no formatting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from models.catalogue import did_you_mean
from scheduler.problems import quoted

LATE = frozenset({"index", "seed", "job"})  # known only when the edit is: an edit's prompt cannot ask for them
OWN = frozenset({"batch", "sku", "recipe", "model"}) | LATE

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class MissingName(ValueError):
    """A template asks for a name that the row does not have.

    column: the name is no column at all here, as opposed to a column that is empty in this row
    """

    def __init__(self, name: str, message: str, *, column: bool) -> None:
        super().__init__(message)
        self.name = name
        self.column = column


@lru_cache(maxsize=4096)
def parts(template: str) -> tuple[tuple[str, bool], ...]:
    """`a {b}` -> (("a ", False), ("b", True)): the literal texts and the names. Raises ValueError on a stray brace."""
    found: list[tuple[str, bool]] = []
    literal, end = "", 0
    for match in _TOKEN.finditer(template):
        literal += template[end : match.start()]
        end = match.end()
        token = match[0]
        if token in ("{{", "}}"):
            literal += token[0]
        elif token in ("{", "}"):
            raise ValueError(f"{quoted(template)} has a single {token}; write {token * 2} for the brace itself")
        elif not match[1].strip():
            raise ValueError(f"{quoted(template)} has a {{}} without a name; write a column's name into it")
        else:
            found.append((literal, False))
            found.append((match[1].strip(), True))
            literal = ""
    found.append((literal + template[end:], False))
    return tuple(part for part in found if part != ("", False))


def names(template: str) -> frozenset[str]:
    return frozenset(text for text, is_name in parts(template) if is_name)


def render(template: str, values: Mapping[str, str], *, late: Iterable[str] = ()) -> str:
    """Fill the names in. late: names this template may not use, because what they say depends on its result.

    Raises ValueError (MissingName where a row lacks the name), in words fit to print.
    """
    filled = []
    for text, is_name in parts(template):
        if not is_name:
            filled.append(text)
        elif values.get(text):
            filled.append(values[text])
        elif text in late:
            raise ValueError(f"{{{text}}} depends on the prompt and cannot stand in it; use it in output paths")
        elif text in values:
            raise MissingName(text, f"{{{text}}} is empty in this row; fill the column {text!r}", column=False)
        else:
            near = did_you_mean(text, sorted(values))
            raise MissingName(text, f"{{{text}}} is not a column here; {near}", column=True)
    return "".join(filled)
