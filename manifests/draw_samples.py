"""Draws the sample pictures of the example manifests: `python manifests/draw_samples.py [FOLDER]`.

Everything is drawn here, with Pillow alone, at twice the final size and then scaled down; the pictures are shipped,
so this runs only when somebody wants other ones. The same script draws the same pictures every time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIDE = 768  # px of the shipped pictures
S = 2 * SIDE  # px while drawing
KB_MAX = 40

Colour = tuple[int, int, int]
Point = tuple[float, float]


def main(folder: Path) -> None:
    import draw_scenes

    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in {**PRODUCTS, **draw_scenes.SCENES}.items():
        save(draw(), folder / f"{name}.jpg")


def save(image: Image.Image, path: Path) -> None:
    """The best JPEG quality that stays below KB_MAX."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in (90, 86, 82, 78, 74, 70, 64, 58, 50, 40):
        small.save(path, quality=quality, optimize=True)
        if path.stat().st_size < KB_MAX * 1024:
            return


# --- tools -----------------------------------------------------------------------------------------------------


def gradient(size: tuple[int, int], stops: Sequence[Colour], *, across: bool) -> Image.Image:
    strip = Image.new("RGB", (len(stops), 1))
    strip.putdata(list(stops))
    if not across:
        strip = strip.transpose(Image.Transpose.ROTATE_270)
    return strip.resize(size, Image.Resampling.BICUBIC)


def backdrop(top: Colour, bottom: Colour) -> Image.Image:
    """A studio's seamless paper: darker above, lighter where the thing stands."""
    image = gradient((S, S), (top, top, bottom, bottom), across=False)
    glow = Image.new("L", (S, S), 0)
    ImageDraw.Draw(glow).ellipse((S * 0.12, S * 0.2, S * 0.88, S * 0.98), fill=70)
    image.paste((255, 255, 255), mask=glow.filter(ImageFilter.GaussianBlur(S / 8)))
    return image


def mask_of(draw: Callable[[ImageDraw.ImageDraw], object]) -> Image.Image:
    mask = Image.new("L", (S, S), 0)
    draw(ImageDraw.Draw(mask))
    return mask


def polygon(points: Sequence[Point]) -> Image.Image:
    return mask_of(lambda d: d.polygon(list(points), fill=255))


def ellipse(x: float, y: float, rx: float, ry: float) -> Image.Image:
    return mask_of(lambda d: d.ellipse((x - rx, y - ry, x + rx, y + ry), fill=255))


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0) -> Image.Image:
    return mask_of(lambda d: d.rounded_rectangle((x0, y0, x1, y1), radius, fill=255))


def without(mask: Image.Image, hole: Image.Image) -> Image.Image:
    return ImageChops.subtract(mask, hole)


def inside(mask: Image.Image, other: Image.Image) -> Image.Image:
    return ImageChops.multiply(mask, other)


def soft(mask: Image.Image, px: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(px))


def faint(mask: Image.Image, share: float) -> Image.Image:
    return mask.point(lambda v: int(v * share))


def paint(
    image: Image.Image, mask: Image.Image, *stops: Colour, across: bool = True, share: float = 1.0, blur: float = 0
) -> None:
    """Fill a mask with a gradient over its own extent."""
    extent = mask.getbbox()
    if extent is None:
        return
    x0, y0, x1, y1 = extent
    fill = Image.new("RGB", (S, S), stops[0])
    if len(stops) > 1:
        fill.paste(gradient((x1 - x0, y1 - y0), stops, across=across), (x0, y0))
    mask = soft(mask, blur) if blur else mask
    image.paste(fill, mask=faint(mask, share) if share < 1 else mask)


def shadow(image: Image.Image, x: float, y: float, rx: float, ry: float, share: float = 0.45) -> None:
    """What a thing throws on the paper: a wide soft one and a narrow dark one where it touches."""
    paint(image, ellipse(x + rx * 0.08, y, rx * 1.15, ry * 1.3), (40, 40, 50), share=share * 0.7, blur=38)
    paint(image, ellipse(x, y - ry * 0.1, rx * 0.94, ry * 0.55), (15, 15, 25), share=share, blur=12)


def smooth(points: Sequence[Point], *, closed: bool = True, steps: int = 14) -> list[Point]:
    """A Catmull-Rom curve through the points."""
    count = len(points)
    found: list[Point] = []
    for i in range(count if closed else count - 1):
        around = [points[(i + k) % count] if closed else points[min(max(i + k, 0), count - 1)] for k in (-1, 0, 1, 2)]
        for step in range(steps):
            t = step / steps
            x, y = (
                0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
                for a, b, c, d in zip(*around, strict=True)
            )
            found.append((x, y))
    return found if closed else [*found, points[-1]]


def turned(profile: Sequence[Point], x: float = S / 2) -> Image.Image:
    """A body of revolution from its half profile of (radius, y)."""
    half = smooth(profile, closed=False)
    return polygon([(x + r, y) for r, y in half] + [(x - r, y) for r, y in reversed(half)])


def line(points: Sequence[Point], width: float) -> Image.Image:
    """A line with round ends and joints."""

    def draw(d: ImageDraw.ImageDraw) -> None:
        d.line(list(points), fill=255, width=round(width), joint="curve")
        for x, y in (points[0], points[-1]):
            d.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)

    return mask_of(draw)


# --- products --------------------------------------------------------------------------------------------------


def mug() -> Image.Image:
    image = backdrop((196, 204, 212), (232, 234, 236))
    shadow(image, 770, 1215, 370, 62)
    handle = without(ellipse(1085, 820, 215, 245), ellipse(1080, 820, 135, 165))
    paint(image, handle, (26, 70, 120), (64, 132, 190), (30, 78, 130), across=False)
    paint(
        image,
        inside(handle, soft(line(smooth([(1120, 610), (1260, 740), (1262, 880)], closed=False), 22), 8)),
        (190, 222, 244),
        share=0.8,
    )
    body = turned([(372, 480), (366, 700), (352, 960), (330, 1120), (292, 1200), (230, 1222), (0, 1226)], 730)
    paint(image, body, (20, 62, 110), (40, 104, 166), (92, 160, 214), (58, 124, 186), (36, 92, 150), (16, 48, 88))
    paint(image, inside(body, box(360, 860, 1100, 930)), (226, 234, 240), (250, 250, 250), (205, 216, 226), share=0.92)
    paint(image, inside(body, box(360, 956, 1100, 974)), (226, 234, 240), (250, 250, 250), (205, 216, 226), share=0.92)
    paint(image, inside(body, box(490, 520, 545, 1090, 30)), (255, 255, 255), share=0.5, blur=14)
    paint(image, ellipse(730, 480, 372, 92), (70, 140, 200), (150, 200, 236), (70, 140, 200))
    paint(image, ellipse(730, 486, 346, 78), (14, 44, 80), (30, 84, 140))
    coffee = inside(ellipse(730, 520, 330, 62), ellipse(730, 486, 346, 78))
    paint(image, coffee, (52, 30, 18), (96, 58, 34), (48, 26, 14))
    paint(image, inside(coffee, ellipse(650, 520, 130, 20)), (170, 120, 80), share=0.6, blur=10)
    return image


def bottle() -> Image.Image:
    image = backdrop((214, 206, 192), (240, 236, 228))
    shadow(image, 775, 1370, 235, 48)
    paint(image, ellipse(900, 1380, 300, 40), (120, 170, 130), share=0.4, blur=30)
    glass = turned(
        [
            (72, 330),
            (72, 420),
            (84, 500),
            (190, 620),
            (216, 720),
            (218, 1000),
            (216, 1300),
            (196, 1366),
            (150, 1384),
            (0, 1386),
        ],
        768,
    )
    paint(image, glass, (14, 50, 34), (44, 112, 76), (120, 184, 140), (60, 136, 94), (34, 96, 66), (8, 38, 26))
    paint(image, inside(glass, box(540, 560, 1000, 1400)), (20, 70, 46), share=0.25)
    label = inside(glass, box(500, 810, 1040, 1180))
    paint(image, label, (196, 186, 164), (246, 240, 226), (252, 248, 238), (232, 224, 206), (176, 166, 144))
    leaf = smooth([(768, 870), (826, 920), (822, 990), (768, 1040), (714, 990), (710, 920)])
    paint(image, polygon(leaf), (70, 126, 84), (110, 160, 110), across=False)
    paint(image, line([(768, 890), (768, 1066)], 7), (240, 236, 220))
    for y, half in ((1092, 120), (1122, 84), (1148, 100)):
        paint(image, box(768 - half, y, 768 + half, y + 9, 4), (120, 112, 94))
    paint(image, inside(glass, box(588, 640, 624, 1330, 18)), (255, 255, 255), share=0.6, blur=9)
    paint(image, inside(glass, box(928, 690, 944, 1300, 8)), (220, 255, 230), share=0.5, blur=6)
    paint(
        image, box(690, 236, 846, 372, 16), (60, 44, 30), (150, 116, 80), (206, 172, 128), (130, 98, 66), (52, 38, 26)
    )
    paint(image, box(690, 350, 846, 360), (60, 40, 24), share=0.6)
    return image


def lamp() -> Image.Image:
    image = backdrop((176, 170, 178), (222, 214, 212))
    paint(image, ellipse(768, 700, 520, 420), (255, 226, 170), share=0.55, blur=130)
    shadow(image, 775, 1352, 300, 46)
    paint(image, ellipse(768, 1340, 262, 46), (70, 52, 36), (168, 130, 92), (92, 70, 48))
    paint(image, ellipse(768, 1324, 262, 46), (120, 88, 60), (222, 184, 138), (140, 106, 74))
    stem = turned(
        [(26, 740), (22, 900), (30, 1040), (74, 1120), (92, 1190), (64, 1260), (34, 1296), (70, 1326), (0, 1330)]
    )
    paint(image, stem, (66, 88, 92), (126, 156, 158), (206, 226, 224), (120, 150, 152), (54, 74, 78))
    shade = polygon([(570, 300), (966, 300), (1136, 800), (400, 800)])
    paint(image, shade, (214, 172, 112), (250, 224, 172), (255, 246, 216), (248, 220, 168), (206, 162, 104))
    paint(image, inside(shade, ellipse(768, 700, 250, 210)), (255, 252, 232), share=0.8, blur=60)
    paint(image, ellipse(768, 800, 368, 44), (240, 200, 140), (255, 240, 204), (236, 196, 136))
    paint(image, ellipse(768, 802, 346, 34), (255, 250, 226), (255, 236, 190), across=False)
    paint(image, ellipse(768, 300, 198, 22), (196, 156, 104), (236, 206, 156), (190, 150, 98))
    for x in range(-5, 6):
        paint(image, inside(shade, line([(768 + x * 36, 300), (768 + x * 67, 800)], 4)), (180, 136, 84), share=0.35)
    return image


def bag() -> Image.Image:
    image = backdrop((206, 210, 200), (236, 236, 230))
    shadow(image, 775, 1328, 440, 52)
    back = line(smooth([(590, 600), (606, 330), (768, 222), (930, 330), (946, 600)], closed=False), 40)
    paint(image, back, (104, 60, 32), (150, 92, 52))
    body = polygon(
        smooth(
            [
                (398, 560),
                (768, 548),
                (1138, 560),
                (1172, 900),
                (1196, 1280),
                (1160, 1326),
                (768, 1338),
                (376, 1326),
                (340, 1280),
                (364, 900),
            ]
        )
    )
    paint(image, body, (186, 160, 118), (224, 202, 162), (240, 222, 186), (226, 204, 164), (176, 148, 108))
    for x in range(340, 1200, 12):  # the weave of the canvas
        paint(image, inside(body, box(x, 540, x + 2, 1340)), (150, 124, 84), share=0.13)
    for y in range(550, 1340, 12):
        paint(image, inside(body, box(330, y, 1200, y + 2)), (255, 248, 226), share=0.16)
    paint(
        image,
        inside(body, polygon(smooth([(480, 700), (530, 900), (500, 1240), (470, 900)]))),
        (120, 94, 60),
        share=0.3,
        blur=26,
    )
    paint(
        image,
        inside(body, polygon(smooth([(1040, 640), (1090, 900), (1060, 1280), (1020, 900)]))),
        (120, 94, 60),
        share=0.3,
        blur=30,
    )
    base = inside(body, box(300, 1130, 1240, 1360))
    paint(image, base, (96, 54, 28), (150, 92, 54), (176, 114, 70), (148, 90, 52), (86, 48, 24))
    for x in range(380, 1170, 34):
        paint(image, inside(body, box(x, 1144, x + 20, 1150, 3)), (236, 206, 160))
    front = line(smooth([(560, 760), (580, 420), (768, 300), (956, 420), (976, 760)], closed=False), 46)
    paint(
        image,
        soft(inside(front, body), 6).transform((S, S), Image.Transform.AFFINE, (1, 0, -10, 0, 1, -12)),
        (80, 50, 26),
        share=0.4,
        blur=8,
    )
    paint(image, front, (116, 66, 36), (178, 112, 66), (116, 66, 36))
    for x in (560, 976):
        paint(image, box(x - 44, 720, x + 44, 850, 14), (110, 62, 34), (170, 106, 62), (104, 58, 30))
        for y in (748, 822):
            paint(image, ellipse(x, y, 12, 12), (250, 226, 170), (150, 110, 50), across=False)
    return image


def watch() -> Image.Image:
    image = backdrop((188, 194, 206), (228, 230, 236))
    paint(image, box(610, 130, 970, 1430, 90), (30, 32, 44), share=0.4, blur=46)
    for top, bottom, wide in ((90, 560, 1), (976, 1446, -1)):
        y0, y1 = (top, bottom) if wide == 1 else (bottom, top)
        strap = polygon([(640, y0), (896, y0), (936, y1), (600, y1)])
        paint(image, strap, (58, 30, 18), (122, 70, 42), (156, 96, 60), (118, 66, 38), (50, 26, 14))
        for side in (-1, 1):
            for step in range(14):
                t = (step + 0.5) / 14
                x, y = 768 + side * (108 + 38 * t), y0 + (y1 - y0) * t
                paint(image, box(x - 3, y - 9, x + 3, y + 9, 3), (230, 196, 150))
    paint(image, box(1108, 726, 1176, 810, 18), (96, 100, 108), (230, 232, 236), (110, 114, 122), across=False)
    paint(image, ellipse(780, 786, 362, 362), (20, 22, 32), share=0.5, blur=26)
    paint(
        image,
        ellipse(768, 768, 356, 356),
        (246, 247, 250),
        (150, 154, 164),
        (214, 218, 226),
        (104, 108, 118),
        across=False,
    )
    paint(image, ellipse(768, 768, 316, 316), (96, 100, 110), (220, 224, 230), across=False)
    paint(image, ellipse(768, 768, 300, 300), (18, 40, 72), (36, 74, 122), (16, 34, 62), across=False)
    for minute in range(60):
        angle = math.radians(minute * 6)
        big = minute % 5 == 0
        inner, wide = (236, 14) if big else (268, 5)
        points = [(768 + math.sin(angle) * r, 768 - math.cos(angle) * r) for r in (inner, 284)]
        paint(image, line(points, wide), (236, 238, 242) if big else (150, 166, 190))
    for degrees, length, wide in ((304, 160, 20), (62, 232, 14)):
        angle = math.radians(degrees)
        tip = (768 + math.sin(angle) * length, 768 - math.cos(angle) * length)
        tail = (768 - math.sin(angle) * 36, 768 + math.cos(angle) * 36)
        paint(image, line([(tail[0] + 6, tail[1] + 8), (tip[0] + 6, tip[1] + 8)], wide), (0, 0, 0), share=0.4, blur=6)
        paint(image, line([tail, tip], wide), (248, 248, 250), (190, 194, 202))
    paint(image, line([(768, 850), (768, 520)], 5), (226, 84, 58))
    paint(image, ellipse(768, 768, 20, 20), (250, 250, 252), (140, 144, 152), across=False)
    glare = inside(ellipse(768, 768, 296, 296), polygon([(520, 440), (700, 440), (560, 1100), (380, 1100)]))
    paint(image, glare, (255, 255, 255), share=0.13, blur=10)
    return image


def shoe() -> Image.Image:
    image = backdrop((204, 196, 198), (236, 230, 230))
    shadow(image, 770, 1130, 590, 56)
    upper = polygon(
        smooth(
            [
                (226, 640),
                (330, 596),
                (452, 640),
                (560, 690),
                (700, 640),
                (776, 700),
                (940, 800),
                (1130, 860),
                (1282, 920),
                (1330, 1010),
                (1300, 1060),
                (760, 1064),
                (230, 1060),
                (196, 900),
            ]
        )
    )
    paint(image, upper, (232, 104, 78), (214, 76, 56), (160, 44, 36), across=False)
    paint(image, inside(upper, ellipse(760, 720, 500, 110)), (255, 190, 160), share=0.45, blur=50)
    opening = polygon(smooth([(262, 650), (336, 616), (440, 652), (540, 706), (470, 730), (340, 706)]))
    paint(image, opening, (70, 24, 22), (120, 44, 38), across=False)
    toe = inside(
        upper, polygon(smooth([(1090, 860), (1240, 870), (1400, 1000), (1340, 1100), (1130, 1100), (1080, 980)]))
    )
    paint(image, toe, (250, 246, 240), (214, 206, 198), across=False)
    heel = inside(upper, polygon(smooth([(150, 640), (290, 700), (330, 900), (300, 1100), (150, 1100)])))
    paint(image, heel, (120, 34, 30), (92, 24, 24), across=False)
    for shift in (20, 130):
        stripe = smooth([(470 + shift, 830), (560 + shift, 1064)], closed=False)
        paint(image, inside(upper, line(stripe, 36)), (252, 246, 238), (226, 214, 204), across=False)
    tongue = polygon(smooth([(566, 660), (700, 600), (752, 640), (730, 720), (650, 724)]))
    paint(image, tongue, (226, 92, 68), (180, 56, 44), across=False)
    for step in range(5):
        x, y = 660 + step * 74, 706 + step * 40
        paint(image, line([(x - 34, y + 62), (x + 66, y - 6)], 22), (120, 36, 30), share=0.5, blur=6)
        paint(image, line([(x - 36, y + 54), (x + 64, y - 12)], 20), (255, 252, 246), (226, 218, 208))
        paint(image, ellipse(x - 38, y + 56, 13, 13), (96, 30, 26))
    sole = polygon(
        smooth(
            [
                (186, 1040),
                (300, 1050),
                (760, 1058),
                (1200, 1050),
                (1346, 1010),
                (1372, 1060),
                (1330, 1130),
                (1100, 1150),
                (420, 1150),
                (214, 1140),
                (172, 1090),
            ]
        )
    )
    paint(image, sole, (255, 253, 248), (226, 220, 212), (176, 168, 160), across=False)
    paint(image, inside(sole, box(150, 1098, 1400, 1108)), (214, 76, 56))
    return image


PRODUCTS: dict[str, Callable[[], Image.Image]] = {
    "mug": mug,
    "bottle": bottle,
    "lamp": lamp,
    "bag": bag,
    "watch": watch,
    "shoe": shoe,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "samples")
