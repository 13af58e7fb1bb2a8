"""The Hugging Face Hub: folders go there with a model card, and hand-offs come back from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from pretraining.cache import build_once
from pretraining.errors import HandoffError, RunError, reason_of
from pretraining.handoff.card import Told, card_of

CARD, AGAIN = "handoff.json", "Look at the network, and try again"


@contextlib.contextmanager
def _explained(what: str, cure: str) -> Iterator[None]:
    """Turn whatever the library, and what it speaks through, raises into one line."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # there is nothing narrower: of the network, of the answer, of a name
        raise RunError(f"{what}: {type(error).__name__}: {reason_of(error)}. {cure}") from error


def check_push(name: str) -> None:
    """Refuse a name that the Hub has not, and a missing token, before anything is written."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    with _explained(f"push={name} is no name of a repository", "Give push=ORG/NAME"):
        validate_repo_id(name)
    if name.count("/") != 1:
        raise RunError(f"push={name} is no name of a repository: give push=ORG/NAME")
    if get_token() is None:
        raise RunError(f"push={name} needs a token of the Hub that may write: set HF_TOKEN, or run `hf auth login`")


def told_in(words: Mapping[str, str], **facts: Any) -> Told:
    """Take from a command line what a card says beside the `facts`: license= and datasets=."""
    datasets = tuple(filter(None, words.get("datasets", "").split(",")))
    return Told(**facts, license=words.get("license"), datasets=datasets)


def push(directory: Path, name: str, told: Told, *, private: bool) -> str:
    """Upload a folder to the repository `name`, made where there is none; returns its address.

    Its README.md becomes a model card. Other files that are in the repository already stay there.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    content = _contents(directory, card_of(directory, name, told))
    added = [CommitOperationAdd(path_in_repo=place, path_or_fileobj=what) for place, what in content.items()]
    with _explained(f"push={name}", "Look at the token's rights and the network, and try again"):
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        address = api.create_repo(name, private=private, exist_ok=True)
        api.create_commit(name, operations=added, commit_message=f"{told.origin.get('objective', 'a model')}")
    return str(address)


def _contents(directory: Path, card: str) -> dict[str, str | bytes]:
    """Name what goes into the repository: files by their paths, and what is written for it as bytes."""
    files = {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}
    content: dict[str, str | bytes] = {name: str(path) for name, path in files.items()}
    content["README.md"] = card.encode()
    if CARD in files:  # it holds the digest of each other file
        described = json.loads(files[CARD].read_text("utf-8"))
        described["sha256"]["README.md"] = hashlib.sha256(card.encode()).hexdigest()
        content[CARD] = (json.dumps(described, indent=2, sort_keys=True) + "\n").encode()
    return content


def pulled(name: str) -> Path | None:
    """Fetch a hand-off from the repository `name` into the Hub's cache; None where that holds none, or is not reached.

    Only the files that handoff.json names are fetched, of one commit.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    endpoint = os.environ.get("HF_ENDPOINT")
    nothing = (EntryNotFoundError, RepositoryNotFoundError, HFValidationError, OfflineModeIsEnabled)
    with _explained(f"handoff=hf:{name}", AGAIN):
        try:
            found = Path(hf_hub_download(name, CARD, endpoint=endpoint))
        except nothing:  # a checkpoint of the library, perhaps in its cache; what reads that says what is wrong
            return None
    revision = found.parent.name
    try:
        names = list(json.loads(found.read_text("utf-8"))["sha256"])
    except (ValueError, LookupError, TypeError) as error:
        raise HandoffError(
            f"handoff=hf:{name}: its {CARD} is not readable ({reason_of(error)}): push it again"
        ) from error
    if odd := [place for place in names if PurePath(place).is_absolute() or ".." in PurePath(place).parts]:
        raise HandoffError(f"handoff=hf:{name}: its {CARD} names {odd[0]}, outside of the hand-off: refused")

    def fetch(directory: Path) -> None:
        for place in [CARD, *names]:
            (directory / place).parent.mkdir(parents=True, exist_ok=True)
            fetched = hf_hub_download(name, place, revision=revision, endpoint=endpoint)
            shutil.copyfile(fetched, directory / place)

    kept = Path(constants.HF_HUB_CACHE) / "handoffs" / f"{name.replace('/', '--')}-{revision}"
    with _explained(f"handoff=hf:{name}", AGAIN):
        return build_once(kept, fetch)
