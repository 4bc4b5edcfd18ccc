"""The picture that comes back: right in size, derived from the input, worth laying beside it, and never taken for real.

    draw(order, inputs, variant) -> PNG bytes

The same inputs, prompt, seed and variant give the same bytes; variants of one call differ visibly. Sizes follow the
API reference (sections 2.1 and 2.2). A small mark at the bottom left says that it is a rehearsal.
"""

from __future__ import annotations

import io
import math
import random
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont, ImageOps

from emulator import effects
from emulator.checks import Order
from emulator.inputs import Input
from emulator.words import Wish, read_wish
from models.catalogue import GRID_PX, Model

DEFAULT_AREA_PX = 1024 * 1024
AREA_2K_PX = 2048 * 2048
WATERMARK = "Qwen-Image"
MARK = "rehearsal"
CUT_OUT_PIXELS = 16_000_000  # kept, at 5 bytes each: finding the subject is the dearest step, the same for every prompt


def output_size(order: Order, inputs: list[Input]) -> tuple[int, int]:
    """(width, height) in pixels of every picture of the call."""
    if order.size is not None:
        return nearest_on_grid(order.size[0]), nearest_on_grid(order.size[1])
    if not inputs:
        return 2048, 2048
    last = inputs[-1].image
    return default_size(order.model, last.width / last.height)


def nearest_on_grid(side: int) -> int:
    """1033 -> 1040, 1032 -> 1024: the nearest multiple of 16, the smaller of two."""
    return max(GRID_PX, math.ceil(side / GRID_PX - 0.5) * GRID_PX)


def default_size(model: Model, ratio: float) -> tuple[int, int]:
    """What a model chooses, in the ratio of the last picture: about 1024 squared; the 2k area for 3.0, as was seen.

    assumed: that 2.1 chooses as 3.0 does.
    """
    rule = model.size
    most = rule.ratio_max if rule and rule.ratio_max else 8.0
    ratio = min(max(ratio, 1 / most), most)
    area = AREA_2K_PX if model.usage == "split" else DEFAULT_AREA_PX
    width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    if rule and rule.min_side and rule.max_side:
        width, height = (min(max(side, rule.min_side), rule.max_side) for side in (width, height))
    return int(width) // GRID_PX * GRID_PX, int(height) // GRID_PX * GRID_PX


@dataclass(frozen=True)
class CutOut:
    """A picture that fits the output, and its subject's mask."""

    picture: Image.Image
    mask: Image.Image


class Pictures:
    """Draws; may be used by several threads at once."""

    def __init__(self) -> None:
        self._cut_outs: OrderedDict[tuple[str, int, int], CutOut] = OrderedDict()
        self._lock = threading.Lock()

    def draw(self, order: Order, inputs: list[Input], seed: int, variant: int) -> bytes:
        size = output_size(order, inputs)
        chance = random.Random(f"{seed} {variant} {order.prompt}")
        light = (chance.random() * 0.3 + variant * 0.37) % 1.0
        lean = chance.choice((0.5, 0.625, 0.75, 0.875)) * (-1 if (variant + seed) % 2 else 1)
        wish = read_wish(order.prompt)
        if inputs:
            edited = _edit(self._cut_out(inputs[0], size), wish, light, lean)
        else:
            edited = _invent(size, wish, chance, light, lean)
        canvas = _fitted(edited, size)
        for place, other in enumerate(inputs[1:]):
            _lay_beside(canvas, self._cut_out(other, size), place, len(inputs) - 1)
        _sign(canvas, MARK, left=True)
        if order.watermark:
            _sign(canvas, WATERMARK, left=False)
        return encode(canvas)

    def _cut_out(self, source: Input, size: tuple[int, int]) -> CutOut:
        key = (source.digest, *size)
        with self._lock:
            if found := self._cut_outs.get(key):
                self._cut_outs.move_to_end(key)
                return found
        picture = source.image
        if picture.width > size[0] or picture.height > size[1]:
            picture = ImageOps.contain(picture, size, Image.Resampling.BICUBIC)
        mask = effects.subject_mask(picture)
        made = CutOut(_opaque(picture), mask)
        with self._lock:
            self._cut_outs[key] = made
            while len(self._cut_outs) > 1 and sum(_pixels(kept) for kept in self._cut_outs.values()) > CUT_OUT_PIXELS:
                self._cut_outs.popitem(last=False)
        return made


def _pixels(cut_out: CutOut) -> int:
    return cut_out.picture.width * cut_out.picture.height


def _edit(source: CutOut, wish: Wish, light: float, lean: float) -> Image.Image:
    """The one page: colour, ground, light."""
    picture, mask = source.picture, source.mask
    if wish.recolour:
        picture = effects.recoloured(picture, mask, wish.recolour, light, lean)
    if wish.backdrop:
        ground = effects.plain_ground(picture.size, wish.backdrop, light, lean)
        picture = Image.composite(picture, effects.with_shadow(ground, mask, lean, 0.25), mask)
    elif wish.scene:
        ground = effects.scene_ground(picture.size, wish.scene, light, lean)
        picture = Image.composite(picture, effects.with_shadow(ground, mask, lean), mask)
    if wish.tone:
        picture = effects.toned(picture, wish.tone, light, lean)
    if wish.transparent:
        picture = picture.copy()
        picture.putalpha(mask)
    return picture


def _invent(size: tuple[int, int], wish: Wish, chance: random.Random, light: float, lean: float) -> Image.Image:
    """A picture without an input: ground, light, and a few stones on it."""
    hue = chance.randrange(360)
    wall, floor = ((_hsl(hue, 30, 84)), _hsl((hue + 40) % 360, 25, 62))
    ground = effects.scene_ground((512, 512), wish.scene or (wish.backdrop or wall, floor), light, lean)
    mask = Image.new("L", ground.size, 0)
    for _ in range(3):
        x, y, r = chance.randrange(90, 420), chance.randrange(240, 400), chance.randrange(40, 110)
        ImageDraw.Draw(mask).ellipse((x - r, y - r * 0.7, x + r, y + r * 0.7), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(2))
    body = effects.plain_ground(ground.size, wish.recolour or _hsl((hue + 180) % 360, 40, 50), light, -lean)
    picture = Image.composite(body, effects.with_shadow(ground, mask, lean), mask)
    return effects.toned(picture, wish.tone or "fresh", light, lean).resize(size, Image.Resampling.BICUBIC)


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole picture inside the asked size; where the ratios differ, the sides are filled with its own blur."""
    if picture.width * size[1] == picture.height * size[0]:
        return picture.copy() if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
    inside = ImageOps.contain(picture, size, Image.Resampling.BICUBIC)
    if abs(inside.width - size[0]) <= GRID_PX and abs(inside.height - size[1]) <= GRID_PX:
        return picture.resize(size, Image.Resampling.BICUBIC)
    place = ((size[0] - inside.width) // 2, (size[1] - inside.height) // 2)
    if picture.mode == "RGBA":
        canvas = Image.new("RGBA", size, (0, 0, 0, 0))
    else:
        small = picture.resize((48, 48)).filter(ImageFilter.GaussianBlur(5))
        canvas = small.resize(size, Image.Resampling.BICUBIC)
    canvas.paste(inside, place)
    return canvas


def _lay_beside(canvas: Image.Image, other: CutOut, place: int, count: int) -> None:
    """Another input, cut out and small, along the right edge."""
    width, height = canvas.size
    box = (max(width // 4, 1), max(height // (count + 1), 1))
    picture = ImageOps.contain(other.picture, box, Image.Resampling.BICUBIC)
    mask = other.mask.resize(picture.size, Image.Resampling.BILINEAR)
    at = (width - picture.width - width // 40, height // 40 + place * (box[1] + height // 60))
    canvas.paste(picture, at, mask)


def _opaque(picture: Image.Image) -> Image.Image:
    """Transparent parts over white, as a picture viewer shows them."""
    if picture.mode == "RGB":
        return picture
    under = Image.new("RGB", picture.size, (255, 255, 255))
    under.paste(picture, mask=picture.getchannel("A"))
    return under


def _sign(canvas: Image.Image, words: str, *, left: bool) -> None:
    label = _label(words, max(10, min(canvas.size) // 52))
    edge = max(4, min(canvas.size) // 90)
    at = (edge if left else max(0, canvas.width - label.width - edge), max(0, canvas.height - label.height - edge))
    if canvas.mode == "RGBA":
        canvas.alpha_composite(label, at)
    else:
        canvas.paste(label, at, label)


@lru_cache(maxsize=64)
def _label(words: str, height: int) -> Image.Image:
    """White letters with a dark rim, so that they can be read on any ground."""
    font = ImageFont.load_default(height)
    box = font.getbbox(words, stroke_width=1)
    label = Image.new("RGBA", (int(box[2]) + 3, int(box[3]) + 3), (0, 0, 0, 0))
    ImageDraw.Draw(label).text((1, 1), words, (255, 255, 255, 200), font, stroke_width=1, stroke_fill=(0, 0, 0, 110))
    return label


def _hsl(hue: int, saturation: int, lightness: int) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(f"hsl({hue}, {saturation}%, {lightness}%)")[:3]
    return red, green, blue


def encode(picture: Image.Image) -> bytes:
    """PNG, packed fast rather than small."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
