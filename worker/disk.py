"""Whose trouble an error of a disk is: the picture's, for good, or this machine's, which may pass."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from models.errors import NotSent, PictureError

# Says nothing of the picture: no file handles, no memory, a disk or a server of files that fails.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Around whatever reads the picture called `name`. Raises PictureError, or NotSent for what may pass."""
    try:
        yield
    except FileNotFoundError:
        raise PictureError("PictureMissing", f"{name} is not there any more") from None
    except OSError as error:
        raise of_reading(name, error) from error


def of_reading(name: str, error: OSError) -> PictureError | NotSent:
    said = f"{name} cannot be read: {error.strerror or error}"
    return NotSent("PictureUnavailable", said) if error.errno in _PASSING else PictureError("PictureUnreadable", said)


@contextmanager
def writing() -> Iterator[None]:
    """Around whatever writes files of our own: a full disk says nothing against the picture. Raises NotSent."""
    try:
        yield
    except OSError as error:
        place = tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - named, not used
        said = f"no picture can be prepared in {place}: {error.strerror or error}; make room, or set TMPDIR"
        raise NotSent("NoRoom", said) from error


@contextmanager
def temporary() -> Iterator[BinaryIO]:
    """A file without a name, gone when closed."""
    with writing():
        file = cast(BinaryIO, tempfile.TemporaryFile(prefix="packshot-"))  # noqa: SIM115 - closed below
    try:
        yield file
    finally:
        with suppress(OSError):  # closing writes what is left: what found no room was told of before
            file.close()
