"""Reading an instruction just well enough to draw something that looks like it was followed. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Colour = tuple[int, int, int]
Tone = Literal["morning", "evening", "night", "winter", "sepia", "restored", "monochrome", "bright", "dark", "fresh"]

COLOURS: dict[str, Colour] = {
    "white": (250, 250, 248),
    "black": (28, 28, 30),
    "grey": (188, 190, 193),
    "gray": (188, 190, 193),
    "silver": (204, 207, 211),
    "charcoal": (62, 64, 68),
    "red": (196, 48, 43),
    "burgundy": (112, 28, 44),
    "green": (52, 128, 74),
    "olive": (116, 118, 58),
    "mint": (178, 222, 200),
    "blue": (48, 96, 176),
    "navy": (32, 46, 88),
    "teal": (30, 124, 126),
    "turquoise": (64, 186, 184),
    "yellow": (238, 200, 62),
    "mustard": (208, 162, 48),
    "gold": (206, 168, 84),
    "orange": (228, 126, 46),
    "terracotta": (192, 104, 76),
    "purple": (112, 70, 150),
    "lilac": (200, 180, 222),
    "pink": (232, 150, 172),
    "brown": (118, 78, 52),
    "beige": (226, 212, 190),
    "cream": (244, 236, 218),
    "白": (250, 250, 248),
    "黑": (28, 28, 30),
    "灰": (188, 190, 193),
    "红": (196, 48, 43),
    "绿": (52, 128, 74),
    "蓝": (48, 96, 176),
    "黄": (238, 200, 62),
    "橙": (228, 126, 46),
    "紫": (112, 70, 150),
    "粉": (232, 150, 172),
    "棕": (118, 78, 52),
    "米色": (226, 212, 190),
}
# sky or wall, and floor
SCENES: dict[str, tuple[Colour, Colour]] = {
    "snow|winter|雪": ((206, 222, 238), (246, 249, 252)),
    "beach|sand|sea|海": ((164, 208, 232), (226, 206, 164)),
    "forest|garden|grass|meadow|field|park|森林|花园|草": ((186, 212, 196), (112, 146, 84)),
    "wood|table|kitchen|oak|desk|桌|厨房": ((236, 228, 214), (172, 128, 86)),
    "slate|stone|concrete|street|city|wall|石|街": ((176, 182, 188), (104, 110, 116)),
    "night|neon|夜": ((38, 40, 72), (22, 22, 36)),
    "studio|摄影棚": ((240, 240, 240), (212, 212, 214)),
    "desert|sunset|沙漠": ((244, 190, 140), (204, 142, 90)),
    "bedroom|living|room|sofa|interior|卧室|客厅": ((232, 222, 212), (176, 150, 124)),
}
TONES: tuple[tuple[str, Tone], ...] = (
    (r"black[ -]and[ -]white|monochrome|greyscale|grayscale|黑白", "monochrome"),
    (r"repair|restore|scratch|coloui?ri[sz]e|修复", "restored"),
    (r"old photo|sepia|vintage|retro|老照片|复古", "sepia"),
    (r"morning|sunrise|golden|warm|daylight|早晨|晨|暖", "morning"),
    (r"evening|sunset|dusk|傍晚|黄昏", "evening"),
    (r"night|moon|夜", "night"),
    (r"winter|snow|cold|cool|冬|冷", "winter"),
    (r"bright|lighter|high[ -]key|亮", "bright"),
    (r"dark|moody|low[ -]key|暗", "dark"),
)
_COLOUR = "|".join(sorted(COLOURS, key=len, reverse=True))
_BACKDROP = r"back ?(?:ground|drop)|背景"
_SCENE = r"scene|place|put|stand|set (?:it|the)|场景|放在|" + "|".join(SCENES)
_CHANGE = r"make|paint|dye|recolou?r|replace|change|turn|dress|wear|换|变|改"


@dataclass(frozen=True)
class Wish:
    """What to draw. Several wishes may hold at once; none of them means a quiet, fresh tone."""

    backdrop: Colour | None = None
    transparent: bool = False
    scene: tuple[Colour, Colour] | None = None
    recolour: Colour | None = None
    tone: Tone | None = None


def read_wish(prompt: str) -> Wish:
    words = prompt.lower()
    tone = next((tone for pattern, tone in TONES if re.search(pattern, words)), None)
    words = re.sub(r"black[ -]and[ -]white|黑白", " ", words)  # a tone, not two colours
    about_backdrop = re.search(_BACKDROP, words) is not None
    backdrop = _backdrop_colour(words)
    transparent = about_backdrop and re.search(r"transparent|透明", words) is not None
    scene = None
    if backdrop is None and not transparent and re.search(_SCENE, words):
        scene = _scene(words, certain=about_backdrop or re.search(r"scene|场景|put|place|放在", words) is not None)
    recolour = None if backdrop and not re.search(_CHANGE, words) else _recolour(words, backdrop)
    if not (backdrop or transparent or scene or recolour or tone):
        tone = "fresh"
    return Wish(backdrop, transparent, scene, recolour, tone)


def _backdrop_colour(words: str) -> Colour | None:
    """`white background`, `background to pale blue`, `on a plain red backdrop`, `on white`."""
    gap = r"(?:[\w-]+\W+){0,3}?"
    for pattern in (
        rf"({_COLOUR})\W+{gap}(?:{_BACKDROP})",
        rf"(?:{_BACKDROP})\W+{gap}({_COLOUR})",
        rf"\bon\W+(?:an? )?(?:pure |plain |clean |solid |seamless )*({_COLOUR})\b",
        rf"({_COLOUR})色?的?(?:{_BACKDROP})",
        rf"(?:{_BACKDROP})\w*?({_COLOUR})",
    ):
        if match := re.search(pattern, words):
            return _shade(COLOURS[match[1]], words[max(0, match.start(1) - 12) : match.start(1)])
    return None


def _shade(colour: Colour, before: str) -> Colour:
    """`pale blue`, `dark green`: the adjective right before the colour."""
    if re.search(r"(pale|light|soft|pastel|浅)\W*$", before):
        red, green, blue = (value + (255 - value) * 2 // 3 for value in colour)
    elif re.search(r"(dark|deep|深)\W*$", before):
        red, green, blue = (value // 2 for value in colour)
    else:
        return colour
    return red, green, blue


def _scene(words: str, *, certain: bool) -> tuple[Colour, Colour] | None:
    for pattern, colours in SCENES.items():
        if re.search(rf"\b(?:on|in|at|under|before)\b[^.]*?\b(?:{pattern})" if not certain else pattern, words):
            return colours
    return ((222, 216, 208), (168, 156, 144)) if certain else None


def _recolour(words: str, backdrop: Colour | None) -> Colour | None:
    """The last colour named that is not the backdrop's, as long as it stands before a thing: `a plain green jacket`."""
    found = [
        _shade(COLOURS[match[1]], words[max(0, match.start() - 12) : match.start()])
        for match in re.finditer(rf"(?<![a-z])({_COLOUR})(?![a-z])", words)
    ]
    return next((colour for colour in reversed(found) if colour != backdrop), None)
