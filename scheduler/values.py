"""Values: from the text of a cell to what it means, and whether a model takes it.

A `parse_` function reads text, a `fits_` function holds the parsed value against the model's entry in the catalogue.
Both raise ValueError with the words `what is wrong; what to write instead`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from models.catalogue import CATALOGUE, REGIONS, Model, did_you_mean, parse_size
from scheduler import template
from scheduler.problems import quoted

N_MAX = max(model.n_max for model in CATALOGUE.values() if model.edits)
SKU_CHARS_MAX = 200


def parse_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise ValueError(
            f"{quoted(text)} is not a name; write at most 100 letters, digits, '-', '_', '.', a letter or digit first"
        )
    return text


def parse_recipe_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", text):
        raise ValueError(f"{quoted(text)} is not a recipe's name; write letters, digits, '-' and '_'")
    return text


def parse_recipe_names(text: str) -> tuple[str, ...]:
    """`white, scene` -> ("white", "scene"), each once."""
    found = [parse_recipe_name(part.strip()) for part in text.split(",") if part.strip()]
    if not found:
        raise ValueError(f"{quoted(text)} names no recipe; write a recipe's name")
    return tuple(dict.fromkeys(found))


def parse_sku(text: str) -> str:
    if len(text) > SKU_CHARS_MAX or "\n" in text or "\r" in text:
        raise ValueError(f"{quoted(text)} is not a SKU; write one line of at most {SKU_CHARS_MAX} characters")
    return text


def parse_template(text: str) -> str:
    template.parts(text)
    return text


def parse_region(text: str) -> str:
    if text not in REGIONS:
        raise ValueError(f"{quoted(text)} is not a region; {did_you_mean(text, REGIONS)}")
    return text


def parse_model(text: str) -> str:
    """Only whether such a model exists; whether it serves this edit is the plan's question."""
    model = CATALOGUE.get(text)
    if model is None:
        editing = [name for name, known in CATALOGUE.items() if known.edits]
        raise ValueError(f"{quoted(text)} is not a model; {did_you_mean(text, editing)}")
    if not model.edits:
        message, _, hint = model.why_not.rpartition("; ")
        raise ValueError(f"{text} cannot edit pictures: {message}; {hint}")
    return text


def parse_whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"{quoted(text)} is no whole number in range; write {least} to {most}")
        return int(text)

    return parse


def parse_n(text: str) -> int:
    """The upper end is the model's, see `fits_n`."""
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or int(text) < 1:
        raise ValueError(f"{quoted(text)} is not a number of pictures; write 1 to {N_MAX}")
    return int(text)


def parse_truth(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{quoted(text)} is neither true nor false; write true or false")


def parse_mode(text: str) -> str:
    if text == "agent":
        raise ValueError("'agent' works only without an input picture; write direct")
    if text != "direct":
        raise ValueError(f"{quoted(text)} is not a mode of prompt_extend; write direct")
    return text


def parse_wire_size(text: str) -> str:
    """`1024*0768` -> `1024*768`"""
    width, height = parse_size(text)
    if not width or not height:
        raise ValueError(f"{quoted(text)} has a side of nothing; write 1024*1024")
    return f"{width}*{height}"


def not_text(what: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        raise ValueError(f"{quoted(text)} is a single value; write {what}")

    return parse


def fits_n(value: int, model: Model) -> None:
    if value > model.n_max:
        hint = "write 1" if model.n_max == 1 else f"write 1 to {model.n_max}"
        raise ValueError(f"{value} pictures, and {model.id} draws at most {model.n_max} a call; {hint}")


def fits_size(value: str, model: Model) -> None:
    rule = model.size
    if rule is None:
        return
    width, height = parse_size(value)
    area, ratio = width * height, max(width, height) / min(width, height)
    most = rule.seen_px or rule.max_px
    if rule.min_px is not None and area < rule.min_px:
        raise ValueError(f"{value} is less than {rule.min_px:,} px, the least of {model.id}; write 1024*1024")
    if most is not None and area > most:
        raise ValueError(f"{value} is more than {most:,} px, the most of {model.id}; write at most 2048*2048")
    if rule.ratio_max is not None and ratio > rule.ratio_max:
        raise ValueError(f"{value} is longer than {rule.ratio_max:g}:1, the most of {model.id}; write 2048*512")
    if rule.min_side is not None and rule.max_side is not None:
        for side in (width, height):
            if not rule.min_side <= side <= rule.max_side:
                raise ValueError(
                    f"{value} has a side of {side}, and {model.id} takes {rule.min_side} to {rule.max_side}; "
                    "write 1024*1024"
                )


def fits_prompt(value: str, model: Model) -> None:
    """An error and not a warning, because the provider cuts what is longer without a word."""
    if model.prompt_tokens is None or len(value) <= model.prompt_tokens:
        return
    tokens = estimate_tokens(value)
    if tokens > model.prompt_tokens:
        raise ValueError(
            f"about {tokens:,} tokens, and {model.id} cuts off after {model.prompt_tokens:,}; write a shorter prompt"
        )


def fits_negative_prompt(value: str, model: Model) -> None:
    if model.negative_chars is not None and len(value) > model.negative_chars:
        raise ValueError(
            f"{len(value)} characters, and {model.id} cuts off after {model.negative_chars}; write a shorter one"
        )


_WORD = re.compile(r"[^\W\d_\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]+|\d+|\S")


def estimate_tokens(text: str) -> int:
    """Tokens of a text, roughly: CJK characters and signs one each, words and numbers one per four characters begun.

    The provider's tokenizer is not public for these models; the estimate never exceeds the number of characters.
    """
    return sum(-(-len(token) // 4) for token in _WORD.findall(text))
