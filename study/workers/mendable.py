"""Errors of the system that a user can do something about, each as one message."""

import errno
import os
import re

NO_ROOM = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EFBIG,
    errno.ENAMETOOLONG,
)
"""A file or folder cannot be used as it is."""


AT_LIMIT = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""The system gives no further process, memory or open file."""


NOT_TEXT = "records hold text alone: rename the file or folder with characters of UTF-8"


def is_text(text: str) -> bool:
    """Tell whether a word of the command line or the name of a file is UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def mendable(error: BaseException) -> str | None:
    """Say what a user can do about a full disk, a closed folder or a limit, or return None.

    Libraries wrap the system's error, or keep only its number or its effect.
    """
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        if told := re.search(r"\(os error (\d+)\)", str(cause)):  # safetensors
            number = int(told[1])
        if "inline_container.cc" in str(cause):  # torch.save
            number = errno.ENOSPC
        if "can't start new thread" in str(cause):  # threading
            number = errno.EAGAIN
        if number in NO_ROOM:
            where = getattr(cause, "filename", None) or "the records"
            return f"cannot use {where}: {os.strerror(number)}; free it, or name another --runs"
        if number in AT_LIMIT:
            return (
                f"the system gives no further process, memory or open file "
                f"({os.strerror(number)}); end other programs, raise the limit (ulimit -a shows "
                "it), or give fewer --workers; what was finished is kept"
            )
        if isinstance(cause, UnicodeEncodeError) and not is_text(cause.object):
            return f"{cause.object[:200]!a} is not UTF-8; {NOT_TEXT}"
        cause = cause.__cause__ or cause.__context__
    return None
