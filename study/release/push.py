"""Push an exported folder to the Hub; no message ever holds a token."""

import re
from pathlib import Path
from typing import Any

from study.errors import ModelError, first_line

TOKENS = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{6,}|(?i:bearer\s+)\S+")


def push_folder(folder: Path, repo: str, *, public: bool, message: str) -> str:
    """Upload a folder as one commit of a model repository, made where there is none.

    Args:
        folder: what `study.release.export` wrote.
        repo: ``owner/name``.
        public: whether others may see it; a repository that is there keeps what it is.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        ModelError: there is no token, no right to write, or no connection; or the
            repository is public and ``public`` was not asked for.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise ModelError(
            "there is no token for the Hub: run `hf auth login`, or set HF_TOKEN; the export in "
            f"{folder} is complete"
        )
    api = HfApi(token=token)
    try:
        return _push(api, folder, repo, public=public, message=message)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - the Hub's client has many, some carry headers
        why = without_tokens(first_line(error), token)
        raise ModelError(
            f"cannot push to {repo}: {type(error).__name__}: {why}; the export in {folder} is "
            "complete, push it again with the same command"
        ) from None  # its context may hold the token


def without_tokens(text: str, token: str) -> str:
    """Return a text in which nothing that may be a token is left."""
    return TOKENS.sub("(token)", text.replace(token, "(token)"))


def _push(api: Any, folder: Path, repo: str, *, public: bool, message: str) -> str:
    address = str(api.create_repo(repo, repo_type="model", private=not public, exist_ok=True))
    if not public and api.repo_info(repo, repo_type="model").private is False:
        raise ModelError(
            f"{repo} is public already and --public was not given; nothing was pushed: make it "
            "private, name another repository, or say --public"
        )
    api.upload_folder(folder_path=folder, repo_id=repo, repo_type="model", commit_message=message)
    return address
