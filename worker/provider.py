"""One paid call of the provider: the synchronous native edit, out of our hands exactly once, answered or not.

Promises: nothing is sent twice (no retries, no redirects, a fresh connection for each call); the request streams from
disk; no call outlives its time limit; every way it can end is a line of `worker.outcomes`. Whether to try again is not
decided here. Keys stand in headers only, never in an error or a log.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit

from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError, LocationValueError

from models.edit import Answer, Edit
from models.errors import PackshotError, SettingsError
from models.settings import Settings
from worker import answers, outcomes
from worker.answers import Received
from worker.inputs import Inputs, LocalPicture
from worker.upload import Uploads
from worker.wire import Deadline, Slot, call_pool, until

EDIT_PATH = "/services/aigc/multimodal-generation/generation"
POLICY_PATH = "/uploads"
ANSWER_MAX_BYTES = 1_000_000  # an answer is a few KB
_JSON = "application/json; charset=utf-8"


class Provider:
    """Shared by all threads of a process."""

    def __init__(
        self, settings: Settings, *, clock: Callable[[], float] = time.monotonic, inputs: Inputs | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._pool = call_pool(size=settings.concurrency)
        self._inputs = inputs or Inputs(settings)
        self._uploads = Uploads(settings, self._policy)

    @contextmanager
    def prepared(self, edit: Edit, *, region: str) -> Iterator[Letter]:
        """All of a call that is free and takes an uneven time: pictures opened, fetched, made anew, uploaded.

        Raises PictureError, NotSent, Refused (of an upload), SettingsError: nothing was bought. An error nobody
        expected is Unsendable.
        """
        with ExitStack() as stack:
            with _as_unsendable():
                headers = self._headers() | {"Content-Type": _JSON}
                url = self._settings.provider_url(region) + EDIT_PATH
                deadline = Deadline.after(self._settings.call_timeout_s, self._clock)
                upload = partial(self._uploads.put, region=region, model=edit.model, deadline=deadline)
                pictures = stack.enter_context(self._inputs.prepare(edit, upload))
                if any(isinstance(picture, str) and picture.startswith("oss://") for picture in pictures):
                    headers["X-DashScope-OssResourceResolve"] = "enable"
                letter = Letter(edit, pictures, url, headers)
            yield letter

    def send(self, letter: Letter, *, attempt: str, slot: Slot | None = None) -> Answer:
        """Buy what was prepared, once. attempt: our id of this call, sent along for both sides' logs.

        slot: on `clock`, when the request may leave, the connection standing by then
        Raises SlotMissed (nothing was sent: send it again in another slot), NotSent, OutcomeUnknown, Refused,
        PictureError (nothing was sent), SettingsError (nothing was sent).
        An error nobody expected is Unsendable as long as the request's end was not out; else it comes as it is.
        """
        with _as_unsendable(letter):
            deadline = Deadline.after(self._settings.call_timeout_s, self._clock)
            headers = letter.headers | {"x-packshot-attempt": attempt}
            received = self._exchange("POST", letter.url, headers, letter, deadline, slot)
        return answers.read_answer(received, handed_over=letter.handed_over)

    def check_key(self, region: str, model: str) -> None:
        """Prove host and key by a free question about a model. Raises as `edit` does, OutcomeUnknown excepted."""
        deadline = Deadline.after(min(30.0, self._settings.call_timeout_s), self._clock)
        self._policy(region, model, deadline)

    def close(self) -> None:
        self._pool.clear()
        self._uploads.close()

    def _policy(self, region: str, model: str, deadline: Deadline) -> dict[str, Any]:
        base = self._settings.provider_url(region)
        url = f"{base}{POLICY_PATH}?{urlencode({'action': 'getPolicy', 'model': model})}"
        received = self._exchange("GET", url, self._headers(), None, deadline)
        if received.broke is not None and not received.body:
            raise outcomes.of_exception(received.broke, handed_over=False, begun=True)
        return answers.read_data(received, urlsplit(base).netloc)

    def _exchange(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        letter: Letter | None,
        deadline: Deadline,
        slot: Slot | None = None,
    ) -> Received:
        """What came back, whole or not. Raises the table's error where not even a status line came."""
        if letter is not None:
            headers = headers | {"Content-Length": str(letter.length)}
        try:
            with until(deadline, slot):
                left_s = deadline.left_s()
                connect_s = min(self._settings.connect_timeout_s, left_s)
                response = self._pool.urlopen(
                    method,
                    url,
                    body=letter,
                    headers=headers,
                    preload_content=False,
                    redirect=False,
                    timeout=Timeout(connect=connect_s, read=left_s),
                    pool_timeout=connect_s,
                )
                return _received(response)
        except LocationValueError as error:
            raise SettingsError(f"{url.partition('?')[0]} is not an address that can be called: {error}") from error
        except (HTTPError, HTTPException, OSError) as error:
            begun, handed_over = (letter.begun, letter.handed_over) if letter else (False, False)
            host = urlsplit(url).netloc.rpartition("@")[2]
            raise outcomes.of_exception(error, handed_over=handed_over, begun=begun, host=host) from error

    def need_key(self) -> None:
        """Raises SettingsError where there is no key, or one that no request can carry."""
        self._headers()

    def _headers(self) -> dict[str, str]:
        secret = self._settings.api_key
        key = secret.get_secret_value().strip() if secret else ""
        if not key:
            raise SettingsError("DASHSCOPE_API_KEY is not set; set it to the key of your Model Studio workspace")
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise SettingsError("DASHSCOPE_API_KEY holds characters that no key has; copy it again")
        headers = {"Authorization": f"Bearer {key}", "Accept": _JSON, "User-Agent": "packshot"}
        if self._settings.workspace_id:
            headers["X-DashScope-WorkSpace"] = self._settings.workspace_id
        return headers


@contextmanager
def _as_unsendable(letter: Letter | None = None) -> Iterator[None]:
    """An error nobody expected, raised before the request's end was out: nothing was bought."""
    try:
        yield
    except PackshotError:
        raise
    except Exception as error:
        if letter is not None and letter.handed_over:
            raise  # it may have been paid; who called leaves it to a person
        raise outcomes.broken("Unsendable", f"{type(error).__name__}: {error}") from error


class Letter:
    """A request ready to be sent: where to, its body's exact length, its pieces from disk, and how far it got.

    begun:       the connection stands and the headers are out
    handed_over: the last piece was handed to the operating system; from here on the call may have been carried out
    """

    def __init__(self, edit: Edit, pictures: list[str | LocalPicture], url: str, headers: dict[str, str]) -> None:
        self.url, self.headers = url, headers
        self.begun = self.handed_over = False
        self._pieces: list[bytes | LocalPicture] = []
        text = '{"model":' + _json(edit.model) + ',"input":{"messages":[{"role":"user","content":['
        for picture in pictures:
            if isinstance(picture, LocalPicture):
                self._pieces += [_utf8(f'{text}{{"image":"data:{picture.mime};base64,'), picture]
                text = '"},'
            else:
                text += '{"image":' + _json(picture) + "},"
        text += '{"text":' + _json(edit.prompt) + "}]}]},"
        text += '"parameters":' + _json({**edit.parameters, "seed": edit.seed}) + "}"
        self._end = _utf8(text)
        self.length = len(self._end) + sum(
            piece.base64_bytes if isinstance(piece, LocalPicture) else len(piece) for piece in self._pieces
        )

    def __iter__(self) -> Iterator[bytes]:
        """Taken piece by piece by the connection: coming back for more means that the piece before is out."""
        self.begun = True
        for piece in self._pieces:
            if isinstance(piece, LocalPicture):
                yield from piece.base64_chunks()
            else:
                yield piece
        yield self._end
        self.handed_over = True


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _utf8(text: str) -> bytes:
    """A lone surrogate cannot be UTF-8; backslash-escaped it is what JSON writes for it."""
    return text.encode("utf-8", "backslashreplace")


def _received(response: BaseHTTPResponse) -> Received:
    """Read up to the cap; an answer that breaks off keeps what came before."""
    body, broke = bytearray(), None
    try:
        while len(body) <= ANSWER_MAX_BYTES and (piece := response.read1(65536, decode_content=True)):
            body += piece
    except (HTTPError, HTTPException, OSError) as error:
        broke = error
    finally:
        response.close()
        response.release_conn()
    too_large = len(body) > ANSWER_MAX_BYTES
    return Received(response.status, response.headers, b"" if too_large else bytes(body), broke, too_large)
