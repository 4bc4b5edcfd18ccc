"""Drawing tools: cut the subject out, give it another ground, another colour, another light. Pillow only, pure.

Every function takes and returns pictures of one size and never changes its arguments. `light` is 0..1 and `lean` is
-1..1: the two numbers by which the variants of one call differ.
"""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps, ImageStat

from emulator.words import Colour, Tone

SMALL_PX = 96  # side at which the plain ground is searched; flooding is slow and needs no more
STEP, REACH = 15, 150  # sums over the three channels: from pixel to pixel, and from where the fill began


def subject_mask(picture: Image.Image) -> Image.Image:
    """Mode L, 255 where the subject is. By alpha, by a plain ground flooded from the corners, or a soft oval."""
    if picture.mode == "RGBA":
        alpha = picture.getchannel("A")
        if alpha.getextrema()[0] < 250:  # type: ignore[operator]  # L has one (low, high)
            return alpha
        picture = picture.convert("RGB")
    small = picture.resize((SMALL_PX, SMALL_PX), Image.Resampling.BOX)
    ground = _flooded(small)
    share = ground.histogram()[255] / SMALL_PX**2
    if not 0.12 < share < 0.97:
        return _oval(picture.size)
    # The coarse region, a little wider, gives the place; the distance from the ground's own colour gives the edge.
    near = ground.filter(ImageFilter.MaxFilter(5)).resize(picture.size, Image.Resampling.BILINEAR)
    inner = ground.filter(ImageFilter.MinFilter(3)).resize(picture.size, Image.Resampling.BILINEAR)
    empty = _without_subject(small, ground).resize(picture.size, Image.Resampling.BILINEAR)
    distance = _largest(ImageChops.difference(picture, empty))
    plain = distance.point([255 if d < 12 else max(0, 255 - (d - 12) * 12) for d in range(256)])
    backdrop = ImageChops.lighter(ImageChops.multiply(near, plain), inner)
    return ImageOps.invert(backdrop).filter(ImageFilter.GaussianBlur(0.8))


def _flooded(small: Image.Image) -> Image.Image:
    """Mode L, 255 where a fill from the border gets to in small steps, so that a ground may change from side to side.

    A pixel is taken when it is close to the neighbour it is reached from and not far from where the fill began.
    """
    side = SMALL_PX
    pixels: list[Colour] = list(small.get_flattened_data())  # type: ignore[arg-type]  # RGB has triples
    last = side - 1
    begins = [0, last, last * side, side * side - 1, side // 2, last // 2 * side, last // 2 * side + last]
    reached = bytearray(side * side)
    for begin in begins:
        waiting = [begin]
        reached[begin] = 255
        while waiting:
            at = waiting.pop()
            x = at % side
            for other in (at - side, at + side, at - 1 if x else -1, at + 1 if x < last else -1):
                if not 0 <= other < side * side or reached[other]:
                    continue
                if _apart(pixels[other], pixels[at]) <= STEP and _apart(pixels[other], pixels[begin]) <= REACH:
                    reached[other] = 255
                    waiting.append(other)
    return Image.frombytes("L", small.size, bytes(reached))


def _apart(one: Colour, other: Colour) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) + abs(one[2] - other[2])


def _without_subject(small: Image.Image, ground: Image.Image) -> Image.Image:
    """The ground alone, what the subject covers filled in from around it."""
    red, green, blue = (int(value) for value in ImageStat.Stat(small, ground).mean)
    known = ground.filter(ImageFilter.MinFilter(3))
    filled = Image.composite(small, Image.new("RGB", small.size, (red, green, blue)), known)
    for radius in (10, 6, 3):
        filled = Image.composite(small, filled.filter(ImageFilter.GaussianBlur(radius)), known)
    return filled


def _largest(picture: Image.Image) -> Image.Image:
    red, green, blue = picture.split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def _oval(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", (SMALL_PX, SMALL_PX), 0)
    edge = SMALL_PX // 8
    ImageDraw.Draw(mask).ellipse((edge, edge // 2, SMALL_PX - edge, SMALL_PX - edge // 2), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(SMALL_PX / 14)).resize(size, Image.Resampling.BILINEAR)


def plain_ground(size: tuple[int, int], colour: Colour, light: float, lean: float) -> Image.Image:
    """A studio wall: the colour, lit from one side and falling off to the other."""
    bright = _mixed(colour, (255, 255, 255), 0.05 + 0.35 * light)
    dim = _mixed(colour, (0, 0, 0), 0.04 + 0.14 * (1 - light))
    ramp = _ramp(size, lean)
    return Image.composite(Image.new("RGB", size, bright), Image.new("RGB", size, dim), ramp)


def scene_ground(size: tuple[int, int], scene: tuple[Colour, Colour], light: float, lean: float) -> Image.Image:
    """A wall or sky above, a floor below, the line between them soft."""
    horizon = 0.56 + 0.12 * light
    strip = Image.new("L", (1, 64))
    for y in range(64):
        at = (y / 63 - horizon) / 0.06
        strip.putpixel((0, y), int(255 * min(max(at + 0.5, 0.0), 1.0)))
    floor = plain_ground(size, scene[1], 1 - light, -lean)
    wall = plain_ground(size, scene[0], light, lean)
    return Image.composite(floor, wall, strip.resize(size, Image.Resampling.BICUBIC))


def with_shadow(ground: Image.Image, mask: Image.Image, lean: float, strength: float = 0.45) -> Image.Image:
    """The subject's shadow on the ground, falling to the side that `lean` says."""
    width, height = ground.size
    reduced = (max(width // 8, 1), max(height // 8, 1))
    small = mask.resize(reduced, Image.Resampling.BOX)
    moved = Image.new("L", reduced, 0)
    moved.paste(small, (round(lean * reduced[0] * 0.05), max(1, reduced[1] // 36)))
    soft = moved.filter(ImageFilter.GaussianBlur(max(reduced) / 42)).point([int(v * strength) for v in range(256)])
    return Image.composite(Image.new("RGB", ground.size, (12, 12, 18)), ground, soft.resize(ground.size))


def recoloured(picture: Image.Image, mask: Image.Image, colour: Colour, light: float, lean: float) -> Image.Image:
    """The subject dyed: its shading kept, its colour replaced, a little light from one side."""
    colour = _mixed(colour, (255, 255, 255) if light > 0.5 else (0, 0, 0), abs(light - 0.5) * 0.5)
    shading = ImageOps.autocontrast(picture.convert("L"), cutoff=1, mask=mask if mask.getbbox() else None)
    dyed = ImageOps.colorize(
        shading,
        black=_mixed(colour, (0, 0, 0), 0.82),
        white=_mixed(colour, (255, 255, 255), 0.72),
        mid=_mixed(colour, (255, 255, 255), 0.25 * light),
        midpoint=118,
    )
    dyed = _shaded(Image.blend(picture, dyed, 0.88), lean, 0.10 + 0.25 * light)
    return Image.composite(dyed, _shaded(picture, lean, 0.02 + 0.08 * light), mask)


def toned(picture: Image.Image, tone: Tone, light: float, lean: float) -> Image.Image:
    """Another light over the whole picture."""
    if tone == "monochrome":
        grey = ImageOps.autocontrast(picture.convert("L"), cutoff=0.5)
        return _shaded(ImageEnhance.Contrast(grey).enhance(0.95 + 0.35 * light).convert("RGB"), lean, 0.20)
    if tone == "sepia":
        grey = ImageEnhance.Contrast(picture.convert("L")).enhance(0.8 + 0.2 * light)
        aged = ImageOps.colorize(grey, black=(46, 30, 18), white=(246, 230, 200), mid=(158, 124, 86))
        return _vignette(aged, 0.5)
    if tone == "restored":
        clean = ImageOps.autocontrast(picture.filter(ImageFilter.MedianFilter(3)), cutoff=1)
        return _balanced(ImageEnhance.Color(clean).enhance(1.25 + 0.4 * light), (1.05, 1.0, 0.94))
    gains: dict[Tone, tuple[float, float, float]] = {
        "morning": (1.12, 1.02, 0.86),
        "evening": (1.20, 0.90, 0.78),
        "night": (0.50, 0.58, 0.86),
        "winter": (0.90, 1.00, 1.16),
        "bright": (1.18, 1.18, 1.17),
        "dark": (0.68, 0.68, 0.72),
        "fresh": (1.04, 1.03, 1.01),
    }
    lit = _balanced(picture, gains[tone])
    lit = ImageEnhance.Color(lit).enhance(1.08 + 0.24 * light)
    lit = ImageEnhance.Contrast(lit).enhance(1.02 + 0.12 * light)
    return _shaded(lit, lean, 0.10 + 0.22 * light)


def _balanced(picture: Image.Image, gains: tuple[float, float, float]) -> Image.Image:
    return picture.point([min(255, int(value * gain)) for gain in gains for value in range(256)])


def _shaded(picture: Image.Image, lean: float, depth: float) -> Image.Image:
    """Light from one side."""
    dimmed = picture.point([int(value * (1 - depth)) for value in range(256)] * 3)
    return Image.composite(picture, dimmed, _ramp(picture.size, lean))


def _vignette(picture: Image.Image, depth: float) -> Image.Image:
    ring = Image.radial_gradient("L").resize(picture.size, Image.Resampling.BILINEAR)
    dimmed = picture.point([int(value * (1 - depth)) for value in range(256)] * 3)
    return Image.composite(dimmed, picture, ring)


@lru_cache(maxsize=16)  # pictures of one catalogue share their sizes, and `lean` takes few values
def _ramp(size: tuple[int, int], lean: float) -> Image.Image:
    """255 at the lit side, 0 opposite: from above, leaning left (-1) or right (1)."""
    down = ImageOps.flip(Image.linear_gradient("L"))
    across = Image.linear_gradient("L").rotate(90 if lean > 0 else -90)
    share = 0.25 + 0.5 * abs(lean)
    return Image.blend(down, across, share).resize(size, Image.Resampling.BILINEAR)


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue
