"""The other sample pictures: inputs of the sub-tasks that no product photo fits. Drawn by `draw_samples.py`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from draw_samples import (
    Point,
    S,
    backdrop,
    box,
    ellipse,
    gradient,
    inside,
    line,
    mask_of,
    paint,
    polygon,
    shadow,
    smooth,
    soft,
    turned,
    without,
)
from PIL import Image, ImageChops, ImageFilter, ImageFont, ImageOps


def sketch() -> Image.Image:
    """A chair in pencil: every stroke drawn three times, never quite the same."""
    chance = random.Random(7)
    image = Image.new("RGB", (S, S), (250, 248, 242))
    strokes: list[list[Point]] = [
        [(520, 250), (500, 820)], [(1000, 250), (1020, 820)], [(520, 250), (760, 226), (1000, 250)],
        [(528, 330), (760, 308), (992, 330)],
        [(514, 470), (760, 450), (1006, 470)], [(510, 540), (760, 522), (1010, 540)],
        [(440, 850), (1080, 850), (1140, 960), (380, 960), (440, 850)],
        [(380, 960), (384, 1006), (1138, 1006), (1140, 960)],
        [(400, 1006), (372, 1370)], [(450, 1006), (430, 1370)], [(372, 1370), (430, 1370)],
        [(1120, 1006), (1148, 1370)], [(1070, 1006), (1090, 1370)], [(1090, 1370), (1148, 1370)],
        [(520, 1006), (512, 1240)], [(556, 1006), (552, 1240)],
        [(1000, 1006), (1008, 1240)], [(964, 1006), (968, 1240)],
        [(436, 1180), (1086, 1180)], [(434, 1214), (1088, 1214)],
    ]  # fmt: skip
    for stroke in strokes:
        for _ in range(3):
            shaken = [(x + chance.gauss(0, 5), y + chance.gauss(0, 5)) for x, y in stroke]
            pencil = line(smooth(shaken, closed=False) if len(stroke) > 2 else shaken, chance.choice((4, 5, 7)))
            paint(image, pencil, (58, 58, 66), share=0.6)
    for step in range(34):
        x = 420 + step * 20
        paint(image, line([(x, 872), (x - 26, 948)], 3), (90, 90, 98), share=0.45)
    for step in range(40):
        x = 330 + step * 22 + chance.gauss(0, 4)
        paint(image, line([(x, 1376 + chance.gauss(0, 8)), (x + 60, 1404)], 3), (110, 110, 118), share=0.4)
    return image


def depth_map() -> Image.Image:
    """An alley between houses: white is near, black is far."""
    image = Image.new("RGB", (S, S), (6, 6, 6))
    centre, far = S / 2, 90
    for x0, sign in ((0.0, -1), (float(S), 1)):
        wall = polygon([(x0, -200), (centre + sign * far, 560), (centre + sign * far, 830), (x0, S + 200)])
        stops = ((235, 235, 235), (120, 120, 120), (58, 58, 58), (20, 20, 20))
        paint(image, wall, *(stops if sign < 0 else stops[::-1]))
    ground = polygon([(0, S), (centre - far, 830), (centre + far, 830), (S, S)])
    paint(image, ground, (20, 20, 20), (70, 70, 70), (150, 150, 150), (250, 250, 250), across=False)
    for near, grey in ((0.78, 245), (0.5, 180), (0.28, 110)):
        for sign in (-1, 1):
            x = centre + sign * (far + near * 640)
            paint(image, box(x - 6, -20, x + 6, 420 - 300 * near + 180), (grey,) * 3)
            paint(
                image,
                ellipse(x, 610 - 260 * near, 90 * near + 12, 120 * near + 16),
                (grey,) * 3,
                (min(255, grey + 30),) * 3,
                (grey,) * 3,
            )
        y = 840 + near * 640
        paint(
            image,
            box(centre - 560 * near - 60, y - 190 * near, centre - 350 * near - 40, y, 12),
            (grey,) * 3,
            (grey - 20,) * 3,
        )
    return image.filter(ImageFilter.GaussianBlur(5))


def keypoints() -> Image.Image:
    """A body's joints, one arm thrown back, in the usual colours on black."""
    joints: dict[str, Point] = {
        "nose": (790, 330), "neck": (770, 470), "r_shoulder": (630, 500), "l_shoulder": (905, 470),
        "r_elbow": (470, 420),
        "l_elbow": (1060, 560), "r_wrist": (330, 300), "l_wrist": (1200, 480), "r_hip": (690, 860), "l_hip": (860, 850),
        "r_knee": (600, 1110), "l_knee": (1010, 1080), "r_foot": (480, 1360), "l_foot": (1030, 1370),
        "r_eye": (760, 300), "l_eye": (822, 298), "r_ear": (722, 318), "l_ear": (862, 312),
    }  # fmt: skip
    bones = [
        ("neck", "r_shoulder"), ("neck", "l_shoulder"), ("r_shoulder", "r_elbow"), ("r_elbow", "r_wrist"),
        ("l_shoulder", "l_elbow"), ("l_elbow", "l_wrist"), ("neck", "r_hip"), ("r_hip", "r_knee"), ("r_knee", "r_foot"),
        ("neck", "l_hip"), ("l_hip", "l_knee"), ("l_knee", "l_foot"), ("neck", "nose"), ("nose", "r_eye"),
        ("r_eye", "r_ear"), ("nose", "l_eye"), ("l_eye", "l_ear"),
    ]  # fmt: skip
    image = Image.new("RGB", (S, S), (0, 0, 0))
    for number, (a, b) in enumerate(bones):
        paint(image, line([joints[a], joints[b]], 26), _rainbow(number / len(bones)), share=0.75)
    for number, place in enumerate(joints.values()):
        paint(image, ellipse(*place, 20, 20), _rainbow(number / len(joints)))
    return image


def _rainbow(t: float) -> tuple[int, int, int]:
    r, g, b = (int(127 + 127 * math.cos(2 * math.pi * (t + shift))) for shift in (0.0, 1 / 3, 2 / 3))
    return r, g, b


def shop_sign() -> Image.Image:
    image = gradient((S, S), ((150, 88, 62), (178, 110, 80)), across=False)
    chance = random.Random(3)
    for row, y in enumerate(range(0, S, 72)):
        for x in range(-160 + (row % 2) * 80, S, 160):
            shade = chance.randint(-14, 14)
            paint(image, box(x + 4, y + 4, x + 154, y + 66, 6), (160 + shade, 92 + shade, 66 + shade))
    for x in (470, 1066):
        paint(image, line([(x, 300), (768, 150)], 8), (60, 56, 52))
    paint(image, ellipse(768, 150, 22, 22), (220, 220, 214), (110, 110, 104), across=False)
    paint(image, box(250, 320, 1310, 880, 40), (20, 10, 6), share=0.5, blur=30)
    paint(image, box(230, 296, 1306, 860, 40), (120, 84, 50), (84, 56, 32), across=False)
    paint(image, box(262, 328, 1274, 828, 26), (24, 66, 60), (16, 48, 46), across=False)
    paint(image, without(box(290, 356, 1246, 800, 18), box(302, 368, 1234, 788, 14)), (222, 196, 140))
    _write(image, "OPEN", 768, 545, 270, (250, 240, 214))
    _write(image, "come on in", 768, 725, 84, (222, 196, 140))
    paint(image, box(0, 1180, S, S), (96, 92, 90), (140, 136, 132), across=False)
    paint(image, box(300, 1010, 620, 1230, 18), (168, 96, 60), (206, 130, 88), (150, 82, 50))
    for _ in range(70):
        x, y = chance.uniform(280, 640), chance.uniform(850, 1030)
        paint(image, ellipse(x, y, 34, 20), (52, 110, 60), (110, 160, 86), across=False)
    return image


def _write(image: Image.Image, text: str, x: float, y: float, size: float, colour: tuple[int, int, int]) -> None:
    font = ImageFont.load_default(size)
    paint(image, mask_of(lambda d: d.text((x, y), text, 255, font, anchor="mm", stroke_width=size / 40)), colour)


def living_room() -> Image.Image:
    image = gradient((S, S), ((226, 216, 200), (236, 228, 214)), across=False)
    paint(image, box(0, 1080, S, S), (168, 124, 84), (134, 94, 60), across=False)
    for x in range(-200, S + 400, 190):
        paint(image, line([(768 + (x - 768) * 0.8, 1080), (x, S)], 4), (110, 76, 48), share=0.5)
    paint(image, box(0, 1056, S, 1084), (250, 246, 238))
    paint(image, box(980, 180, 1380, 620), (250, 248, 244), (226, 222, 214))
    paint(image, box(1006, 206, 1354, 594), (150, 200, 236), (214, 234, 246), across=False)
    for x, y in ((1090, 320), (1240, 290), (1170, 360)):
        paint(image, ellipse(x, y, 70, 28), (255, 255, 255), share=0.8, blur=10)
    paint(image, box(1172, 200, 1188, 600), (250, 248, 244))
    paint(image, box(330, 240, 760, 560), (60, 48, 40))
    paint(image, box(352, 262, 738, 538), (244, 226, 190), (240, 178, 120), (120, 110, 130), across=False)
    paint(image, ellipse(560, 440, 54, 54), (252, 240, 200))
    shadow(image, 700, 1290, 560, 60)
    for x in (270, 1090):
        paint(image, box(x, 1240, x + 36, 1310), (70, 46, 30))
    paint(image, box(200, 760, 1190, 1130, 70), (88, 122, 142), (62, 92, 112), across=False)
    paint(image, box(150, 900, 310, 1250, 60), (104, 140, 160), (56, 84, 104), across=False)
    paint(image, box(1080, 900, 1240, 1250, 60), (104, 140, 160), (56, 84, 104), across=False)
    for x in (300, 690):
        paint(image, box(x, 1010, x + 396, 1180, 40), (122, 158, 178), (82, 114, 134), across=False)
    paint(
        image,
        polygon(smooth([(380, 850), (560, 836), (576, 1010), (400, 1024)])),
        (236, 150, 84),
        (206, 112, 56),
        across=False,
    )
    paint(image, box(1270, 1090, 1430, 1290, 16), (214, 204, 190), (176, 164, 148), (140, 130, 116))
    for angle in range(-70, 71, 20):
        tip = (1350 + math.sin(math.radians(angle)) * 250, 1090 - math.cos(math.radians(angle)) * 420)
        bend = ((1350 + tip[0]) / 2 + angle * 0.7, (1090 + tip[1]) / 2)
        leaf = smooth([(1350, 1090), (bend[0] - 34, bend[1]), tip, (bend[0] + 34, bend[1])])
        paint(image, polygon(leaf), (96, 160, 92), (36, 92, 56), across=False)
    return image


def house() -> Image.Image:
    image = gradient((S, S), ((110, 170, 222), (186, 216, 236), (236, 240, 236)), across=False)
    for x, y, r in ((300, 260, 120), (440, 300, 90), (1200, 210, 130), (1060, 250, 80)):
        paint(image, ellipse(x, y, r * 1.5, r * 0.45), (255, 255, 255), share=0.85, blur=26)
    paint(image, box(0, 1150, S, S), (116, 160, 92), (70, 112, 58), across=False)
    paint(image, polygon([(660, 1540), (740, 1160), (836, 1160), (1000, 1540)]), (214, 200, 178), (176, 160, 138))
    for x, r in ((170, 210), (1390, 180)):
        paint(image, box(x - 18, 980, x + 18, 1200), (92, 66, 44), (60, 42, 28))
        paint(image, ellipse(x, 880, r, r * 1.15), (120, 170, 96), (44, 96, 56), across=False)
    shadow(image, 780, 1180, 520, 40, 0.35)
    paint(image, box(380, 620, 1160, 1180), (244, 232, 208), (226, 210, 182))
    paint(image, polygon([(310, 640), (768, 300), (1228, 640)]), (178, 84, 62), (130, 52, 42), across=False)
    for y in range(380, 640, 38):
        half = (y - 300) / 340 * 460
        paint(image, box(768 - half, y, 768 + half, y + 5), (96, 36, 30), share=0.4)
    paint(image, box(1000, 330, 1084, 520), (150, 80, 62), (110, 56, 44))
    paint(image, box(690, 880, 846, 1180, 10), (54, 92, 116), (36, 66, 88))
    paint(image, ellipse(820, 1040, 10, 10), (240, 210, 120))
    for x in (450, 930):
        for y in (700, 920):
            paint(image, box(x, y, x + 160, y + 150, 6), (252, 250, 244))
            paint(image, box(x + 14, y + 14, x + 146, y + 136), (140, 186, 214), (84, 128, 164), across=False)
            paint(image, box(x + 76, y, x + 84, y + 150), (252, 250, 244))
            paint(image, box(x - 14, y + 150, x + 174, y + 166, 4), (206, 188, 156))
    return image


def dog() -> Image.Image:
    image = gradient((S, S), ((196, 214, 226), (220, 226, 222), (190, 186, 150), (150, 144, 100)), across=False)
    shadow(image, 770, 1350, 380, 54)
    fur, dark, cream = (206, 142, 82), (150, 92, 46), (250, 238, 218)
    paint(image, line(smooth([(1030, 1180), (1190, 1090), (1216, 930)], closed=False), 66), dark, fur, across=False)
    body = turned([(150, 690), (226, 860), (272, 1090), (300, 1270), (260, 1340), (0, 1350)], 770)
    paint(image, body, dark, fur, (226, 168, 106), fur, dark)
    paint(image, ellipse(770, 1020, 130, 220), cream, (240, 222, 196), across=False, blur=14)
    for x in (650, 890):
        paint(image, box(x - 62, 1020, x + 62, 1350, 60), fur, (222, 160, 98), dark)
        paint(image, ellipse(x, 1330, 86, 44), cream, (224, 204, 176), across=False)
    for side in (-1, 1):
        ear = smooth(
            [(770 + side * 160, 330), (770 + side * 330, 380), (770 + side * 350, 640), (770 + side * 230, 620)]
        )
        paint(image, polygon(ear), dark, (116, 66, 32), across=False)
    paint(image, ellipse(770, 540, 246, 254), (228, 170, 108), fur, (180, 118, 62), across=False)
    paint(image, polygon(smooth([(770, 300), (816, 430), (830, 560), (710, 560), (724, 430)])), cream, blur=8)
    paint(image, ellipse(770, 660, 150, 118), cream, (236, 214, 184), across=False, blur=4)
    paint(image, ellipse(770, 606, 58, 42), (70, 60, 60), (20, 16, 18), across=False)
    paint(image, ellipse(754, 592, 16, 9), (220, 220, 224), share=0.8, blur=3)
    for side in (-1, 1):
        paint(image, ellipse(770 + side * 108, 500, 36, 42), (60, 34, 18), (16, 10, 8), across=False)
        paint(image, ellipse(770 + side * 108 - 10, 486, 11, 13), (255, 255, 255))
        mouth = smooth([(770, 650), (770 + side * 30, 704), (770 + side * 86, 690)], closed=False)
        paint(image, line(mouth, 9), (80, 50, 40))
    paint(
        image,
        polygon(smooth([(738, 704), (802, 704), (796, 770), (770, 788), (744, 770)])),
        (238, 128, 128),
        (214, 92, 100),
        across=False,
    )
    paint(
        image,
        line(smooth([(592, 778), (770, 836), (948, 778)], closed=False), 44),
        (196, 46, 50),
        (150, 28, 36),
        across=False,
    )
    paint(image, ellipse(770, 872, 40, 40), (250, 224, 130), (190, 146, 56), across=False)
    return image


def mascot() -> Image.Image:
    """A little robot with a round head: easy to know again."""
    image = backdrop((206, 222, 222), (238, 242, 238))
    shadow(image, 770, 1350, 330, 50)
    for x in (640, 896):
        paint(image, box(x - 50, 1160, x + 50, 1330, 30), (90, 100, 116), (170, 180, 194), (80, 90, 106))
        paint(image, box(x - 92, 1296, x + 92, 1356, 30), (244, 170, 66), (206, 122, 36), across=False)
    for side in (-1, 1):
        arm = smooth(
            [(768 + side * 230, 900), (768 + side * 380, 960), (768 + side * 420, 820 if side > 0 else 1090)],
            closed=False,
        )
        paint(image, line(arm, 62), (150, 160, 176), (104, 114, 130))
        paint(image, ellipse(*arm[-1], 62, 62), (250, 184, 84), (206, 122, 36), across=False)
    paint(
        image,
        box(530, 800, 1006, 1210, 150),
        (20, 110, 116),
        (66, 178, 178),
        (120, 212, 206),
        (60, 168, 170),
        (14, 92, 100),
    )
    paint(image, box(640, 930, 896, 1090, 40), (240, 246, 244), (206, 220, 218), across=False)
    heart = smooth([(768, 1064), (690, 990), (706, 946), (768, 972), (830, 946), (846, 990)])
    paint(image, polygon(heart), (240, 96, 90), (206, 56, 62), across=False)
    paint(image, line([(768, 300), (768, 170)], 18), (120, 130, 146))
    paint(image, ellipse(768, 160, 44, 44), (255, 206, 110), (236, 140, 40), across=False)
    paint(image, ellipse(768, 560, 340, 286), (130, 220, 212), (70, 184, 182), (22, 118, 124), across=False)
    paint(image, ellipse(768, 580, 264, 196), (24, 44, 56), (44, 74, 88), across=False)
    paint(image, ellipse(640, 380, 110, 40), (255, 255, 255), share=0.5, blur=16)
    for side in (-1, 1):
        paint(image, ellipse(768 + side * 110, 560, 50, 62), (160, 255, 232), (90, 226, 206), across=False)
        paint(image, ellipse(768 + side * 110 - 14, 536, 16, 18), (255, 255, 255))
        paint(
            image,
            box(768 + side * 350 - 30, 490, 768 + side * 350 + 30, 640, 24),
            (250, 184, 84),
            (206, 122, 36),
            across=False,
        )
    paint(image, line(smooth([(690, 664), (768, 704), (846, 664)], closed=False), 16), (120, 244, 222))
    return image


def person() -> Image.Image:
    image = backdrop((214, 208, 204), (238, 234, 230))
    shadow(image, 770, 1460, 210, 34)
    skin, skin_dark = (238, 196, 164), (206, 156, 124)
    for x, lean in ((704, -8), (832, 8)):
        paint(
            image,
            polygon([(x - 66, 960), (x + 62, 960), (x + 44 + lean, 1400), (x - 44 + lean, 1400)]),
            (44, 58, 88),
            (78, 96, 134),
            (36, 48, 74),
        )
        paint(image, box(x - 70 + lean, 1390, x + 60 + lean, 1462, 30), (250, 248, 244), (190, 184, 178), across=False)
    for side in (-1, 1):
        arm = smooth([(768 + side * 170, 560), (768 + side * 232, 760), (768 + side * 216, 960)], closed=False)
        paint(image, line(arm, 78), (238, 238, 232), (206, 206, 200))
        paint(image, ellipse(768 + side * 214, 990, 40, 52), skin, skin_dark, across=False)
    torso = polygon(
        smooth(
            [
                (590, 520),
                (700, 484),
                (836, 484),
                (946, 520),
                (930, 760),
                (920, 990),
                (768, 1006),
                (616, 990),
                (606, 760),
            ]
        )
    )
    paint(image, torso, (206, 206, 200), (246, 246, 240), (252, 252, 248), (240, 240, 234), (196, 196, 190))
    paint(image, box(718, 400, 818, 520, 40), skin_dark, skin, skin_dark)
    paint(image, ellipse(768, 276, 152, 172), (70, 44, 32), (40, 24, 18), across=False)
    paint(image, ellipse(768, 316, 120, 146), (246, 208, 178), skin, skin_dark, across=False)
    fringe = inside(ellipse(768, 316, 124, 150), polygon([(630, 160), (910, 160), (896, 280), (760, 226), (640, 290)]))
    paint(image, fringe, (78, 50, 36), (50, 30, 22), across=False)
    for side in (-1, 1):
        paint(image, ellipse(768 + side * 48, 318, 13, 14), (50, 36, 30))
        paint(image, ellipse(768 + side * 72, 372, 26, 16), (240, 150, 130), share=0.5, blur=8)
    paint(image, line(smooth([(728, 398), (768, 416), (808, 398)], closed=False), 10), (186, 90, 84))
    return image


def coat() -> Image.Image:
    image = backdrop((206, 206, 212), (236, 236, 238))
    shadow(image, 775, 1410, 360, 36, 0.3)
    paint(image, line(smooth([(768, 240), (768, 150), (820, 120), (840, 170)], closed=False), 12), (130, 134, 142))
    for side in (-1, 1):
        sleeve = smooth(
            [
                (768 + side * 200, 330),
                (768 + side * 340, 420),
                (768 + side * 430, 900),
                (768 + side * 300, 930),
                (768 + side * 230, 600),
            ]
        )
        paint(image, polygon(sleeve), (150, 96, 40), (206, 146, 74), (140, 88, 36))
    body = polygon(
        smooth([(560, 320), (768, 290), (976, 320), (1010, 700), (1090, 1340), (768, 1380), (446, 1340), (526, 700)])
    )
    paint(image, body, (140, 88, 36), (198, 138, 68), (222, 164, 90), (196, 136, 66), (128, 80, 32))
    paint(image, inside(body, line([(768, 560), (776, 1390)], 8)), (96, 58, 20))
    for side in (-1, 1):
        lapel = polygon(
            [
                (768 + side * 130, 290),
                (768 + side * 220, 420),
                (768 + side * 150, 480),
                (768, 640),
                (768 + side * 40, 420),
            ]
        )
        paint(image, lapel, (226, 170, 98), (170, 114, 52), across=False)
        paint(
            image,
            box(768 + side * 220 - 96, 930, 768 + side * 220 + 96, 970, 10),
            (150, 98, 42),
            (120, 74, 28),
            across=False,
        )
    paint(image, polygon([(650, 290), (886, 290), (768, 460)]), (96, 60, 26), (130, 86, 42), across=False)
    for y in (700, 860, 1020):
        for x in (700, 836):
            paint(image, ellipse(x, y, 24, 24), (90, 56, 26), (50, 28, 10), across=False)
    paint(image, inside(body, box(400, 770, 1140, 830)), (150, 98, 44), (122, 76, 30), across=False)
    return image


def bench() -> Image.Image:
    image = gradient((S, S), ((178, 206, 222), (214, 226, 214), (150, 178, 110), (104, 138, 74)), across=False)
    chance = random.Random(5)
    for _ in range(60):
        x, y = chance.uniform(0, S), chance.uniform(430, 640)
        paint(image, ellipse(x, y, 90, 70), (92, 138, 82), (58, 104, 62), across=False, share=0.5, blur=18)
    paint(image, polygon([(0, 1290), (S, 1230), (S, S), (0, S)]), (206, 192, 166), (170, 154, 128), across=False)
    shadow(image, 780, 1330, 600, 46)
    iron = (44, 48, 52)
    for x, side in ((270, 1), (1230, -1)):
        paint(image, line([(x, 620), (x + 14, 1010), (x - 20, 1330)], 34), iron, (90, 96, 102), iron)
        paint(
            image,
            line([(x + 10 * side, 1000), (x + 90 * side, 1010), (x + 100 * side, 1330)], 30),
            iron,
            (90, 96, 102),
            iron,
        )
        rest = smooth([(x - 10 * side, 850), (x - 70 * side, 830), (x - 130 * side, 860)], closed=False)
        paint(image, line(rest, 26), iron)
    for y in (640, 730, 820):
        paint(image, box(220, y, 1310, y + 66, 14), (186, 124, 72), (150, 92, 48), across=False)
    for number, y in enumerate((960, 1006, 1056)):
        paint(
            image,
            box(220 - number * 14, y, 1320 + number * 14, y + 40, 12),
            (204, 142, 88),
            (150, 94, 50),
            across=False,
        )
    return image


def old_photo() -> Image.Image:
    """The house as a print of long ago: sepia, faded, folded and scratched."""
    chance = random.Random(11)
    grey = ImageOps.grayscale(house().filter(ImageFilter.GaussianBlur(3)))
    image = ImageOps.colorize(grey, (62, 42, 26), (236, 220, 184), (156, 126, 88))
    paint(image, without(box(0, 0, S, S), soft(ellipse(768, 768, 800, 800), 120)), (70, 46, 26), share=0.6, blur=90)
    for _ in range(26):
        x, y = chance.uniform(0, S), chance.uniform(0, S)
        scratch = [(x, y), (x + chance.gauss(0, 60), y + chance.uniform(80, 420))]
        paint(image, line(scratch, chance.choice((2, 3, 5))), (250, 240, 214), share=chance.uniform(0.5, 0.9))
    for _ in range(60):
        x, y, r = chance.uniform(0, S), chance.uniform(0, S), chance.uniform(3, 15)
        paint(image, ellipse(x, y, r, r), chance.choice(((244, 232, 204), (84, 58, 34))), share=0.6, blur=3)
    for fold in ([(0, 560), (500, 548), (S, 580)], [(910, 0), (900, 800), (930, S)]):
        paint(image, line(fold, 16), (70, 48, 28), share=0.35, blur=6)
        paint(image, line(fold, 5), (252, 244, 222), share=0.9)
    torn = polygon([(S, S), (S, 1290), (1440, 1350), (1400, 1440), (1290, 1470), (1250, S)])
    paint(image, torn, (246, 240, 226))
    grain = bytes(min(255, max(0, int(chance.gauss(128, 14)))) for _ in range((S // 8) ** 2))
    noise = Image.frombytes("L", (S // 8, S // 8), grain).resize((S, S), Image.Resampling.BICUBIC)
    image = ImageChops.overlay(image, Image.merge("RGB", (noise,) * 3))
    frame = Image.new("RGB", (S, S), (240, 230, 206))
    frame.paste(image.resize((S - 140, S - 140)), (70, 70))
    return frame


SCENES: dict[str, Callable[[], Image.Image]] = {
    "sketch": sketch,
    "depth-map": depth_map,
    "keypoints": keypoints,
    "shop-sign": shop_sign,
    "living-room": living_room,
    "house": house,
    "dog": dog,
    "mascot": mascot,
    "person": person,
    "coat": coat,
    "bench": bench,
    "old-photo": old_photo,
}
