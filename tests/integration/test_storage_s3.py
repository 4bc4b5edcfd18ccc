"""The bucket storage against two real servers, and against one that answers as it is told."""

import hashlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models import settings as settings_
from models.edit import Edit, Picture
from models.errors import NotSent, StorageRefused, StorageUnavailable
from tests.servers.misbehaving import serve
from tests.servers.s3 import S3Process
from worker import bucket
from worker.inputs import Inputs
from worker.storage import Stored, open_storage

FACTS = {
    "batch": "spring",
    "sku": "茶 1 (50%)",
    "job": "ab12",
    "seed": "7",
    "model": "qwen-image-2.0",
    "request-id": "r",
}


@pytest.fixture(scope="module", params=["gateway", "moto"])
def server(request, tmp_path_factory):
    with S3Process(tmp_path_factory.mktemp("s3"), request.param) as process:
        process.make_bucket("pictures")
        yield process


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with S3Process(tmp_path_factory.mktemp("s3"), "gateway") as process:
        process.make_bucket("pictures")
        yield process


def settings(server, **changed):
    environ = {name: value for name, value in {**server.env(), **changed}.items() if value is not None}
    return settings_.load(environ=environ, cwd=Path("/nonexistent"))


@pytest.fixture
def storage(server, request):
    return open_storage(f"s3://pictures/{request.node.name[:40].strip('[]')}/out", settings(server))


def put(storage, key, data=b"picture", **more):
    return storage.put(key, data, sha256=hashlib.sha256(data).hexdigest(), metadata={**FACTS, **more})


def test_a_picture_is_kept_whole_with_its_metadata_in_any_script(storage, server):
    # given
    data = bytes(range(256)) * 4000
    # when
    stored = put(storage, "spring/茶 1+2.png", data)
    # then
    assert stored == Stored("spring/茶 1+2.png", len(data), hashlib.sha256(data).hexdigest())
    assert storage.read("spring/茶 1+2.png") == data
    found = storage.head("spring/茶 1+2.png")
    assert found.size == len(data)
    assert found.metadata == {**FACTS, "sha256": stored.sha256}
    assert found.is_ours
    plain = server.client().head_object(Bucket="pictures", Key=f"{storage.prefix}/spring/茶 1+2.png")
    assert plain["ContentType"] == "image/png"
    assert plain["Metadata"]["sku"].isascii()


def test_the_same_picture_again_writes_nothing_and_another_replaces_it(storage):
    assert not put(storage, "a.png").existed
    assert put(storage, "a.png").existed
    assert not put(storage, "a.png", b"newer one").existed
    assert storage.read("a.png") == b"newer one"


def test_nothing_is_found_where_nothing_is(storage):
    assert storage.head("a.png") is None
    with pytest.raises(StorageRefused, match="NoSuchKey"):
        storage.read("a.png")


def test_an_object_of_somebody_else_is_foreign(storage, server):
    server.client().put_object(Bucket="pictures", Key=f"{storage.prefix}/theirs.png", Body=b"x", Metadata={"n": "50%"})
    assert not storage.head("theirs.png").is_ours
    assert list(storage.existing(["theirs.png", "none.png"])) == ["theirs.png"]


def fill(storage, keys):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: storage.client.put_object(**storage._place(key), Body=b""), keys))


def test_which_keys_exist_is_asked_by_the_page_and_not_one_by_one(storage, monkeypatch):
    # given 110 objects, and pages of 50
    fill(storage, (f"deep/{n:05}.png" for n in range(110)))
    monkeypatch.setattr(bucket, "PAGE_KEYS", 50)
    asked = []
    monkeypatch.setattr(storage.client, "head_object", lambda **_: pytest.fail("one by one"))
    storage.client.meta.events.register("before-call.s3.ListObjectsV2", lambda **_: asked.append(1), unique_id="count")
    # when we ask for every second of them, among keys that are not there
    found = set(storage.existing(f"deep/{n:05}.png" for n in range(0, 30_000, 2)))
    # then
    storage.client.meta.events.unregister("before-call.s3.ListObjectsV2", unique_id="count")
    assert found == {f"deep/{n:05}.png" for n in range(0, 110, 2)}
    assert len(asked) == 3


def test_a_few_keys_far_apart_among_many_objects_are_asked_one_by_one_in_the_end(storage, monkeypatch):
    fill(storage, [*(f"m/{n:05}.png" for n in range(60)), "z.png"])
    monkeypatch.setattr(bucket, "PAGE_KEYS", 10)
    assert set(storage.existing(["z.png"])) == {"z.png"}
    assert set(storage.existing(["a.png", "z.png"])) == {"z.png"}
    monkeypatch.setattr(bucket, "BLOCK_KEYS", 2)
    assert set(storage.existing(["a.png", "m/00001.png", "n.png", "z.png"])) == {"m/00001.png", "z.png"}


def test_a_check_passes_and_leaves_nothing_behind(storage, server):
    storage.check()
    listed = server.client().list_objects_v2(Bucket="pictures", Prefix=storage.prefix)
    assert listed["KeyCount"] == 0


def test_a_bucket_that_does_not_exist_is_refused_in_one_sentence(server):
    storage = open_storage("s3://no-such-bucket/out", settings(server))
    for attempt in (storage.check, lambda: put(storage, "a.png"), lambda: list(storage.existing(["a.png"]))):
        with pytest.raises(StorageRefused, match=r"NoSuchBucket.*make the bucket"):
            attempt()


def test_an_impossible_bucket_name_is_refused_before_anything_is_sent(server):
    with pytest.raises(StorageRefused, match="bucket name"):
        open_storage("s3://Not a Bucket/out", settings(server)).check()


def test_one_client_serves_all_threads_of_the_process(storage, server):
    again = open_storage("s3://pictures/elsewhere", settings(server))
    assert again.client is storage.client
    assert open_storage("s3://pictures/x", settings(server, AWS_SECRET_ACCESS_KEY="another")).client is not again.client
    with ThreadPoolExecutor(16) as pool:
        stored = list(pool.map(lambda n: put(storage, f"{n}.png", bytes([n]) * 5000), range(64)))
    assert sum(s.size for s in stored) == 64 * 5000


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody-we-know"}, "InvalidAccessKeyId"),
        ({"AWS_SECRET_ACCESS_KEY": "the-wrong-secret"}, "SignatureDoesNotMatch"),
    ],
)
def test_wrong_keys_are_refused_by_a_server_that_checks_them(gateway, changed, code):
    storage = open_storage("s3://pictures/out", settings(gateway, **changed))
    with pytest.raises(StorageRefused, match=f"{code}.*check AWS_ACCESS_KEY_ID") as refused:
        storage.check()
    assert "the-wrong-secret" not in str(refused.value)
    with pytest.raises(StorageRefused, match=r"403.*AWS_ACCESS_KEY_ID"):
        put(storage, "a.png")


def test_without_any_keys_the_sentence_says_which_to_set(gateway, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    none = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    with pytest.raises(StorageRefused, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_storage("s3://pictures/out", settings(gateway, **none)).check()
    with pytest.raises(StorageRefused, match="AWS_SECRET_ACCESS_KEY is not set"):
        open_storage("s3://pictures/out", settings(gateway, AWS_SECRET_ACCESS_KEY=None))


def test_an_endpoint_that_is_no_address_is_refused(gateway):
    with pytest.raises(StorageRefused, match="AWS_ENDPOINT_URL is written"):
        open_storage("s3://pictures/out", settings(gateway, AWS_ENDPOINT_URL="localhost:9000"))


def test_a_server_that_is_gone_is_unavailable_and_serves_again_when_it_is_back(tmp_path):
    # given
    with S3Process(tmp_path / "s3") as server:
        server.make_bucket("pictures")
        storage = open_storage("s3://pictures/out", settings(server))
        put(storage, "a.png")
        # when it is killed
        server.kill()
        with pytest.raises(StorageUnavailable, match="s3://pictures/out/b"):
            put(storage, "b.png")
        # then the same storage goes on where it was, after a start
        server.start()
        put(storage, "b.png")
        assert set(storage.existing(["a.png", "b.png", "c.png"])) == {"a.png", "b.png"}


class AsTold(BaseHTTPRequestHandler):
    """Answers each method with what the test set: (status, headers, body)."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, self.headers))
        status, headers, body = self.server.answers[self.command]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_PUT = do_HEAD = do_DELETE = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def as_told():
    with ThreadingHTTPServer(("127.0.0.1", 0), AsTold) as server:
        server.answers, server.seen = {"HEAD": (404, {}, b""), "PUT": (200, {"ETag": '"x"'}, b"")}, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def told(server, **changed):
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        **changed,
    }
    return open_storage("s3://pictures", settings_.load(environ=environ, cwd=Path("/nonexistent")))


def said(code):
    return f"<Error><Code>{code}</Code><Message>So it is.</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", StorageRefused, "allow s3:PutObject"),
        (301, "PermanentRedirect", StorageRefused, "AWS_DEFAULT_REGION"),
        (400, "AuthorizationHeaderMalformed", StorageRefused, "AWS_DEFAULT_REGION"),
        (400, "EntityTooLarge", StorageRefused, "raise its limit"),
        (507, "XMinioStorageFull", StorageRefused, "make room"),
        (503, "SlowDown", StorageUnavailable, "So it is"),
        (500, "InternalError", StorageUnavailable, "So it is"),
    ],
)
def test_each_answer_of_a_server_is_refused_or_tried_again(as_told, status, code, kind, words):
    as_told.answers["PUT"] = (status, {"Content-Type": "application/xml"}, said(code))
    with pytest.raises(kind, match=words):
        put(told(as_told), "a.png")


def test_a_gateway_page_instead_of_an_answer_is_unavailable(as_told):
    as_told.answers["PUT"] = (502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>")
    with pytest.raises(StorageUnavailable):
        put(told(as_told), "a.png")


def test_an_object_that_is_not_what_was_written_is_never_called_stored(as_told):
    # given a server that takes a picture and then shows another size, another checksum, or nothing
    digest = hashlib.sha256(b"picture").hexdigest()
    for shown in (
        (404, {}, b""),
        (200, {"Content-Length": "6", "x-amz-meta-sha256": digest}, b""),
        (200, {"Content-Length": "7", "x-amz-meta-sha256": "0" * 64}, b""),
    ):
        as_told.answers["HEAD"] = shown
        with pytest.raises(StorageUnavailable, match="not what was written"):
            put(told(as_told), "a.png")


def test_where_the_etag_is_no_md5_the_object_is_read_back(as_told):
    digest = hashlib.sha256(b"picture").hexdigest()
    as_told.answers["HEAD"] = (200, {"Content-Length": "7", "x-amz-meta-sha256": digest, "ETag": '"abc-1"'}, b"")
    as_told.answers["GET"] = (200, {}, b"picture")
    assert put(told(as_told), "a.png").sha256 == digest
    as_told.answers["GET"] = (200, {}, b"pictura")
    with pytest.raises(StorageUnavailable, match="read back"):
        put(told(as_told), "a.png")


def test_the_server_is_told_what_it_should_receive_and_nothing_new_is_asked_of_it(as_told):
    with pytest.raises(StorageUnavailable):
        put(told(as_told), "a.png")
    path, headers = next((path, headers) for command, path, headers in as_told.seen if command == "PUT")
    assert path == "/pictures/a.png"
    assert headers["Content-MD5"] == "VFb8VMdKKXzplJmMKHOzcA=="
    assert headers["Content-Type"] == "image/png"
    assert not [name for name in headers if name.lower().startswith(("if-", "x-amz-checksum", "x-amz-sdk-check"))]


def test_a_server_that_forgets_metadata_is_found_by_the_check(as_told, monkeypatch):
    monkeypatch.setattr(bucket.secrets, "token_bytes", lambda _: b"probe")
    as_told.answers |= {"GET": (200, {}, b"probe"), "DELETE": (204, {}, b"")}
    storage = told(as_told)
    monkeypatch.setattr(storage.client, "list_objects_v2", lambda **_: {"KeyCount": 1})  # GET has one answer here
    with pytest.raises(StorageRefused, match="drops object metadata"):
        storage.check()


def test_a_silent_server_is_given_up_after_the_read_time_limit(monkeypatch):
    # given a socket that accepts and says nothing
    monkeypatch.setattr(bucket, "READ_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        storage = open_storage("s3://pictures", settings_.load(environ=environ, cwd=Path("/nonexistent")))
        # when, then
        with pytest.raises(StorageUnavailable, match="timeout"):
            storage.head("a.png")


def test_an_object_larger_than_any_picture_is_refused_and_not_read_to_its_end(as_told, monkeypatch):
    monkeypatch.setattr(bucket, "MAX_BYTES", 1000)
    as_told.answers["GET"] = (200, {}, bytes(1000))
    assert len(told(as_told).read("a.png")) == 1000
    as_told.answers["GET"] = (200, {}, bytes(1001))
    with pytest.raises(StorageRefused, match="larger than any picture"):
        told(as_told).read("a.png")


def drip(peer):
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
    peer.drip(bytes(99999), 0.02)


def test_an_object_that_drips_is_given_up_when_its_time_is_over(monkeypatch):
    monkeypatch.setattr(bucket, "READ_TOTAL_S", 0.2)
    with serve(drip) as server, pytest.raises(StorageUnavailable, match="time limit of the whole"):
        dripping(server).read("a.png")


def test_an_input_picture_that_drips_is_given_up_with_its_call():
    edit = Edit("qwen-image-2.0", (Picture("s3://pictures/a.jpg"),), "a shoe", {}, 7)
    known = settings_.Settings(PACKSHOT_CALL_TIMEOUT_S=0.2)
    with (
        serve(drip) as server,
        pytest.raises(NotSent, match="time limit of the whole"),
        Inputs(known, s3=lambda: dripping(server).client).prepare(edit, lambda _: ""),
    ):
        pass


def dripping(server):
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    return open_storage("s3://pictures", settings_.load(environ=environ, cwd=Path("/nonexistent")))
