import io

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from emulator.checks import Order
from emulator.inputs import Input, decode
from emulator.pictures import Pictures, nearest_on_grid, output_size
from emulator.refusals import Refusal
from emulator.words import COLOURS, read_wish
from models.catalogue import CATALOGUE

Size = tuple[int, int]


def product(size: Size = (400, 500), ground: str | None = "white") -> Input:
    """A brown vase on a plain ground, or on none."""
    image = Image.new("RGB", size, ground) if ground else Image.new("RGBA", size, (0, 0, 0, 0))
    width, height = size
    box = (width // 4, height // 5, width * 3 // 4, height * 4 // 5)
    ImageDraw.Draw(image).ellipse(box, fill=(150, 80, 60))
    return Input(f"{size} {ground}", image)


def order(prompt: str, model: str = "qwen-image-2.0", size: Size | None = (384, 480), **more: object) -> Order:
    return Order(CATALOGUE[model], prompt, ("ref",), size=size, **more)  # type: ignore[arg-type]


def drawn(wanted: Order, *inputs: Input, seed: int = 7, variant: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(Pictures().draw(wanted, list(inputs), seed, variant)))


def colour_at(picture: Image.Image, x: float, y: float) -> tuple[int, int, int]:
    """Mean colour of a small patch; x and y are shares of width and height."""
    left, top = int(picture.width * x) - 4, int(picture.height * y) - 4
    red, green, blue = ImageStat.Stat(picture.convert("RGB").crop((left, top, left + 8, top + 8))).mean
    return round(red), round(green), round(blue)


def difference(one: Image.Image, other: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean) / 3


def test_the_cut_outs_that_are_kept_are_bounded_by_their_pixels(monkeypatch):
    monkeypatch.setattr("emulator.pictures.CUT_OUT_PIXELS", 500_000)
    pictures = Pictures()

    for width in range(400, 410):
        pictures.draw(order("on white", size=None), [product((width, 500))], 7, 0)

    kept = [cut_out.picture.size for cut_out in pictures._cut_outs.values()]
    assert kept == [(408, 500), (409, 500)]  # the youngest; 200,000 pixels each


def test_asked_sizes_move_to_the_nearest_multiple_of_sixteen():
    assert (nearest_on_grid(1033), nearest_on_grid(1032)) == (1040, 1024)
    assert drawn(order("on white", size=(1033, 1032)), product()).size == (1040, 1024)


@pytest.mark.parametrize(
    ("model", "picture", "expected"),
    [
        ("qwen-image-2.0", (500, 500), (1024, 1024)),
        ("qwen-image-2.0", (2000, 1000), (1440, 720)),
        ("qwen-image-edit-max", (4000, 500), (2048, 512)),
        ("qwen-image-3.0-pro", (768, 1376), (1520, 2736)),  # as it was measured at the provider
    ],
)
def test_without_a_size_the_model_chooses_by_the_last_picture(model, picture, expected):
    first, last = product((300, 900)), product(picture)

    assert output_size(order("on white", model, size=None), [first, last]) == expected


def test_a_plain_ground_is_replaced_and_the_product_kept():
    before = product()

    after = drawn(order("Put it on a plain blue background"), before)

    red, green, blue = colour_at(after, 0.06, 0.3)
    assert blue > red + 40
    assert blue > green
    assert colour_at(after, 0.5, 0.5) == pytest.approx((150, 80, 60), abs=12)


def test_a_transparent_product_gets_a_ground_too():
    after = drawn(order("on a red background"), product(ground=None))

    red, green, _ = colour_at(after, 0.06, 0.3)
    assert red > green + 60
    assert after.mode == "RGB"


def test_a_transparent_background_is_an_alpha_channel():
    after = drawn(order("transparent background"), product())

    assert after.mode == "RGBA"
    assert after.getpixel((10, 60))[3] == 0
    assert after.getpixel((after.width // 2, after.height // 2))[3] == 255


def test_a_product_is_dyed_and_its_ground_left_alone():
    after = drawn(order("make it a green jacket"), product())

    red, green, _ = colour_at(after, 0.5, 0.5)
    assert green > red
    assert min(colour_at(after, 0.06, 0.3)) > 225


def test_black_and_white_has_no_colour_left():
    after = drawn(order("black and white"), product())

    red, green, blue = colour_at(after, 0.5, 0.5)
    assert red == green == blue


@pytest.mark.parametrize("prompt", ["on white", "place it on snow", "morning light", "old photo", "improve it", "绿色"])
def test_every_edit_differs_from_what_was_sent(prompt):
    before = product((384, 480))

    assert difference(drawn(order(prompt), before), before.image) > 0.5


def test_the_same_seed_draws_the_same_bytes_and_another_seed_does_not():
    wanted, picture = order("place it on snow"), product()

    first, again = (Pictures().draw(wanted, [picture], 7, 0) for _ in range(2))

    assert first == again
    assert first != Pictures().draw(wanted, [picture], 8, 0)


@pytest.mark.parametrize("prompt", ["on white", "place it on snow", "green jacket", "morning light", "improve it"])
def test_variants_of_one_call_differ_visibly(prompt):
    variants = [drawn(order(prompt), product(), variant=i) for i in range(6)]

    differences = [difference(a, b) for i, a in enumerate(variants) for b in variants[:i]]

    assert min(differences) > 0.8


def test_other_pictures_are_laid_beside_the_first():
    second = Input("second", Image.new("RGB", (200, 200), (20, 160, 40)))

    alone, together = drawn(order("combine"), product()), drawn(order("combine"), product(), second)

    right = (int(together.width * 0.7), 0, together.width, together.height // 2)
    assert difference(alone.crop(right), together.crop(right)) > 20


def test_every_picture_is_marked_and_the_watermark_comes_on_request():
    plain, marked = drawn(order("on black background")), drawn(order("on black background", watermark=True))
    corner = (plain.width * 2 // 3, plain.height * 14 // 15, plain.width, plain.height)

    assert difference(plain.crop(corner), marked.crop(corner)) > 1
    bottom_left = plain.convert("L").crop((0, plain.height - 20, 70, plain.height))
    assert bottom_left.getextrema()[1] - bottom_left.getextrema()[0] > 40


def test_text_alone_draws_something_too():
    assert Image.open(io.BytesIO(Pictures().draw(order("a red vase", size=(512, 512)), [], 1, 0))).size == (512, 512)


def test_wide_and_tiny_pictures_are_drawn_without_a_stumble():
    assert drawn(order("on white", size=(2048, 256)), product((1, 1))).size == (2048, 256)
    assert drawn(order("on white", size=(512, 512)), product((900, 3))).size == (512, 512)


@pytest.mark.parametrize(
    ("prompt", "facts"),
    [
        ("Change the background to black", {"backdrop": COLOURS["black"]}),
        ("on a clean white background", {"backdrop": COLOURS["white"]}),
        (
            "Replace the shirt by a green one on a white background",
            {"backdrop": COLOURS["white"], "recolour": COLOURS["green"]},
        ),
        ("换成白色背景", {"backdrop": COLOURS["白"]}),
        ("把外套改成绿色", {"recolour": COLOURS["绿"], "backdrop": None}),
        ("black and white", {"tone": "monochrome", "recolour": None, "backdrop": None}),
        ("Repair scratches, then colourise", {"tone": "restored"}),
        ("Remove the bicycle", {"tone": "fresh", "scene": None, "recolour": None}),
        ("reduce glare", {"recolour": None}),
    ],
)
def test_simple_words_are_understood(prompt, facts):
    wish = read_wish(prompt)

    assert {name: getattr(wish, name) for name in facts} == facts


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
def test_every_documented_format_is_read(kind):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, kind)

    assert decode(file.getvalue(), f"image/{kind.lower()}").size == (40, 30)


def test_a_mime_type_must_match_the_bytes():
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")

    with pytest.raises(Refusal, match="image format error"):
        decode(file.getvalue(), "image/jpeg")


def test_a_broken_picture_is_refused():
    file = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(file, "PNG")

    with pytest.raises(Refusal, match="read image error"):
        decode(file.getvalue()[:3000], None)
    with pytest.raises(Refusal, match="Invalid image format"):
        decode(b"<html></html>", None)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    Image.new("1", (9_200, 9_200)).save(file, "PNG")

    with pytest.raises(Refusal, match="Multimodal file size is too large"):
        decode(file.getvalue(), None)
