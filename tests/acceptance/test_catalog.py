"""Real product photos: studio shots with a camera's notes in them, cut-outs with transparency, amateur photos."""

import base64
import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.servers.cli import Cli, fast_env
from tests.servers.emulator import EmulatorProcess, running_emulator
from tests.servers.misbehaving import Peer, serve

CATALOG = Path(__file__).parents[3] / "shared" / "catalog"
CUT_OUTS = ("mighty-mug", "beanie-1", "sunnies", "white-plimsolls-2")
AMATEUR = ("dress-1", "hat-1", "shoes-1", "t-shirt-1")
REFUSAL = {"code": "InvalidParameter", "message": "not today", "request_id": "r"}


pytestmark = pytest.mark.skipif(not CATALOG.is_dir(), reason=f"the photos are not here: no {CATALOG}")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    limits = "qwen-image-2.0=1000/1s"
    with running_emulator(tmp_path_factory.mktemp("emulator"), limits=limits) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, emulator: EmulatorProcess) -> Cli:
    for folder in ("boutique", "saleor", "clothing"):
        (tmp_path / folder).symlink_to(CATALOG / folder)
    return Cli(tmp_path, fast_env(emulator.url))


def refusing(peer: Peer) -> None:
    peer.read_request()
    peer.answer(400, REFUSAL)


def write_tables(folder: Path) -> None:
    """What a shop has: its products as it exports them, and pictures that other people took."""
    products = json.loads((CATALOG / "boutique/products.json").read_text(encoding="utf-8"))["products"]
    lines = ["sku,name,image,category"]
    for each in products:
        picture = each["picture"].rpartition("/")[2]
        lines.append(f"{each['id']},{each['name'].lower()},boutique/{picture},{each['categories'][0]}")
    lines += [f"{name},{name},saleor/{name}.png,cut-out" for name in CUT_OUTS]
    lines += [f"{name},{name},clothing/{name}.jpg,clothing" for name in AMATEUR]
    (folder / "catalog.csv").write_text("\n".join(lines), encoding="utf-8")
    top = {
        "batch": "catalog",
        "output": "out/{category}/{sku}-{recipe}.png",
        "budget": "10 CNY",
        "tables": ["catalog.csv"],
        "defaults": {"size": "512*512"},
        "recipes": {"white": "Put the {name} on a pure white background", "green": "The same {name} in green"},
    }  # fmt: skip
    (folder / "catalog.yaml").write_text(json.dumps(top), encoding="utf-8")


def test_a_real_catalog_is_edited_stored_and_accounted_for(cli: Cli, emulator: EmulatorProcess):
    # given
    write_tables(cli.folder)
    checked = cli.ok("check", "catalog.yaml", "--json").json
    assert (checked["problems"], checked["warnings"]) == ([], [])
    assert checked["rows"] == 2 * (9 + len(CUT_OUTS) + len(AMATEUR))

    # when
    facts = cli.ok("run", "catalog.yaml", "--yes", "--json").json

    # then
    assert facts["rows"]["succeeded"] == checked["rows"] == facts["pictures"]["stored"]
    assert facts["money"][0]["charged_micros"] == emulator.invoice()["micros"] == checked["rows"] * 200_000
    stored = sorted((cli.folder / "out").rglob("*.png"))
    assert len(stored) == checked["rows"]
    for path in stored:
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == (512, 512)

    # and each product's two pictures are two, made from its photo
    for name in CUT_OUTS:
        white, green = (cli.folder / "out/cut-out" / f"{name}-{recipe}.png" for recipe in ("white", "green"))
        with Image.open(white) as one, Image.open(green) as other:
            assert ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is not None

    # and money can be told by a column of the shop's own
    by_category = cli.ok("cost", "catalog", "--by", "category", "--json").json["groups"]
    groups = {group["key"]: group["pictures"] for group in by_category}
    assert groups["cut-out"] == 2 * len(CUT_OUTS)
    assert sum(groups.values()) == checked["rows"]


def test_photos_below_the_recommended_size_are_warned_of_once_and_edited(cli: Cli):
    # given
    for name in AMATEUR:
        with Image.open(CATALOG / "clothing" / f"{name}.jpg") as photo:
            photo.reduce(2).save(cli.folder / f"{name}.jpg")
    lines = ["sku,image,prompt", *(f"{name},{name}.jpg,on white" for name in AMATEUR)]
    (cli.folder / "small.csv").write_text("\n".join(lines))

    # when
    result = cli.ok("run", "small.csv", "--set", "size=512*512", "--json")

    # then
    (warning,) = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert "384" in warning
    assert "4 rows" in warning or "3 more" in warning
    assert result.json["rows"]["succeeded"] == len(AMATEUR)


def test_the_cameras_notes_in_a_photo_are_not_sent_and_its_pixels_are_untouched(cli: Cli):
    # given: a photo that names its camera, and a provider that keeps what it got
    photo = CATALOG / "boutique/mug.jpg"
    with Image.open(photo) as original:
        assert original.getexif()[0x0110] == "EOS REBEL T5i"
        pixels = original.convert("RGB")
    shutil.copy(photo, cli.folder / "mug.jpg")
    (cli.folder / "one.csv").write_text("sku,image,prompt\nMUG,mug.jpg,on white\n")

    # when
    with serve(refusing) as server:
        result = cli.run("run", "one.csv", env={"DASHSCOPE_HTTP_BASE_URL": server.url})
    (sent,) = [request for request in server.requests if request.line.startswith("POST")]

    # then
    assert "InvalidParameter: not today" in result.out
    content = sent.json["input"]["messages"][0]["content"]
    data = base64.b64decode(content[0]["image"].partition(";base64,")[2])
    assert b"Canon" in photo.read_bytes()
    assert b"Canon" not in data
    with Image.open(BytesIO(data)) as received:
        assert dict(received.getexif()) == {}
        assert ImageChops.difference(received.convert("RGB"), pixels).getbbox() is None


def test_transparency_of_a_cut_out_reaches_the_provider(cli: Cli):
    # given
    (cli.folder / "one.csv").write_text("sku,image,prompt\nCAP,saleor/beanie-1.png,on white\n")

    # when
    with serve(refusing) as server:
        cli.run("run", "one.csv", env={"DASHSCOPE_HTTP_BASE_URL": server.url})
    (sent,) = [request for request in server.requests if request.line.startswith("POST")]

    # then
    data = base64.b64decode(sent.json["input"]["messages"][0]["content"][0]["image"].partition(";base64,")[2])
    with Image.open(BytesIO(data)) as received:
        assert (received.mode, received.size) == ("RGBA", (2160, 2160))
        assert received.getchannel("A").getextrema() == (0, 255)
