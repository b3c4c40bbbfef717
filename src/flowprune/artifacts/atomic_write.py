"""Write a file so that a reader finds the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from flowprune.errors import OutputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what was written there takes its place if the block ends without error.

    Raises:
        OutputError: the folder is missing, ``path`` is a folder, or nothing can be written there.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: there is no folder {target.parent}; make it first")
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder; name a file")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"cannot write {target}: the folder {target.parent} is read-only")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        temporary.touch()
        # What the umask leaves of a new file; some writers put a file of their own there that only its owner may read.
        permissions = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(permissions)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except (OSError, SafetensorError) as error:  # the latter is safetensors' own name for a full disk
        raise OutputError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Put ``text`` into ``path`` as a whole or not at all; see ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
