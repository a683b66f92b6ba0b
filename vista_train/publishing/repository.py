"""Repository: a model's place on the Hub. Whether it can be written is known at once, and one commit fills it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from vista_train.redact import phrase

MARKER = "<!-- This card was written by vista_train, which replaces it when the model is pushed again. -->"
"""A card that holds this line is ours."""
CARD = "README.md"
OF_THE_RUN = ("training", "IN_PROGRESS", "log.jsonl", "ledger.jsonl", "stopped.json", "profile")
"""What may lie in a checkpoint's folder and is the run's, not the model's."""
NATURE = (".gitattributes", CARD)
"""Files of every repository."""


@dataclass(frozen=True)
class Filled:
    """What came of an upload."""

    url: str
    left: tuple[str, ...]
    """Files that were there before and are no part of what was uploaded; they stay."""


@dataclass(frozen=True)
class Repository:
    """A model's repository by its name, `owner/name`. The login is the Hub's own: HF_TOKEN, or `hf auth login`.

    `private` is None for the owner's default; one that is there stays as it is.
    """

    name: str
    private: bool | None = None

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.name)
        except HFValidationError as error:
            raise ValueError(self._misnamed()) from error
        if self.name.count("/") != 1:
            raise ValueError(self._misnamed())

    def prepare(self) -> None:
        """Make the repository if it is not there. `ValueError` in one sentence where it cannot be filled later.

        That is: no network, no login or a wrong one, no right to write, a card that somebody else wrote.
        """
        with self._speaking():
            if get_token() is None:
                raise ValueError(
                    f"--push-to-hub {self.name}: there is no login; run `hf auth login`, or set HF_TOKEN to a token "
                    f"that may write"
                )
            api = HfApi()
            api.create_repo(self.name, private=self.private, exist_ok=True)
            # One that is there is made by nobody, whoever asks: this tells who may write it.
            api.auth_check(self.name, write=True)
            self._check_card(api, api.list_repo_files(self.name))

    def fill(self, folder: Path, texts: Mapping[str, str]) -> Filled:
        """Upload a checkpoint in one commit: all of it, or nothing. `texts` stand in place of its files of that name.

        `ValueError` where the Hub does not take it, or its card is by now somebody else's.
        """
        sources: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
        sources |= {name: text.encode() for name, text in texts.items()}
        with self._speaking():
            api = HfApi()
            there = api.list_repo_files(self.name)
            self._check_card(api, there)
            added = [CommitOperationAdd(name, source) for name, source in sources.items()]
            done = api.create_commit(self.name, added, commit_message="Checkpoint by vista_train")
        return Filled(str(done.repo_url), tuple(sorted(set(there) - sources.keys() - set(NATURE))))

    def _check_card(self, api: HfApi, files: list[str]) -> None:
        if CARD not in files:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = api.hf_hub_download(self.name, CARD, local_dir=folder)
            is_ours = MARKER in Path(path).read_text(encoding="utf-8", errors="replace")
        if not is_ours:
            raise ValueError(
                f"--push-to-hub {self.name}: its {CARD} was not written by vista_train, and would be lost; delete or "
                f"rename it there, or choose another name"
            )

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Whatever goes wrong between here and the Hub, as a `ValueError` for people."""
        where = f"--push-to-hub {self.name}"
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise ValueError(f"{where}: HF_HUB_OFFLINE is set, and nothing goes to the Hub; unset it") from error
        except HTTPError as error:
            raise ValueError(f"{where}: {_failed(error)}") from error
        except (RuntimeError, OSError) as error:
            # Of one file; what was wrong may stand behind it.
            raise ValueError(f"{where}: {_failed(error.__cause__ or error)}") from error

    def _misnamed(self) -> str:
        return (
            f"--push-to-hub is {self.name!r}; it must be owner/name as on the Hub: letters, digits, '-', '_' and '.', "
            f"96 at most"
        )


def files_of(folder: Path) -> list[Path]:
    """The files of a checkpoint that are the model's, in the order of their names."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in OF_THE_RUN and not any(part.startswith(".") for part in parts):
            found.append(path)
    return found


def _failed(error: BaseException) -> str:
    """What an error on the way to the Hub, or an answer of the Hub's, means."""
    if not isinstance(error, HfHubHTTPError):
        what = "the Hub cannot be reached" if isinstance(error, HTTPError) else "the upload failed"
        return f"{what} ({phrase(f'{type(error).__name__}: {error}')})"
    status = error.response.status_code
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return "the Hub does not know the login (401); run `hf auth login`, or set HF_TOKEN to a token that may write"
    if status == 403:
        return "the login may not write there (403); take a token with the right to write, or another owner"
    if status in (401, 404):
        return f"there is no such repository, or the login may not see it ({status})"
    return f"the Hub says {status}: {phrase(error.server_message or str(error))}"
