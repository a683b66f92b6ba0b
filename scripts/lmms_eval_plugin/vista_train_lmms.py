"""`--model vista_train` for lmms-eval: its tasks run on a checkpoint of vista_train, which answers over HTTP.

This lives in lmms-eval's environment and needs nothing of vista_train's, which runs `vista-train serve` in its own.
`--model_args` are those of `VistaTrain`, such as `url=http://127.0.0.1:8000,token_file=token` for a server that is
there, or `checkpoint=out/run,root=/data,python=/path/to/.venv/bin/python` for one that is started and ended here.
"""

from __future__ import annotations

import atexit
import http.client
import itertools
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

LOG = logging.getLogger(__name__)
DEFAULT_TOKENS = 1024
"""What other models of lmms-eval take where a task does not say how long an answer may be."""
BLANK_LINE = "\n\n"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
"""What the server takes for pictures; any other name is a video's."""
FAILURES = ("stop", "empty")
SEVERAL = ("refuse", "frames")
SECONDS_TO_END = 90.0
"""A server takes a minute at most; one that hangs is killed."""


def manifest() -> Any:
    """What the entry point hands to lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vista_train", simple_class_path=f"{__name__}.VistaTrain")


class CannotShowError(Exception):
    """What a task shows is nothing that the model can be shown."""


class VistaTrain(lmms):
    """A checkpoint of vista_train behind `vista-train serve`.

    `url` and `token_file`: of a server that runs. Or `checkpoint`, `root` and `python`, vista_train's interpreter: a
    server is started, and ended afterwards; `overrides` are recipe keys for it, with spaces between them, and `dtype`
    and `--device` are passed on. `root` is the folder that videos are in, by default the server's; pictures are written
    to a folder in it that is removed afterwards. `on_failure=empty` gives no answer where a video cannot be shown,
    instead of ending the evaluation. `several=frames` shows several pictures of one size as the frames of a video.
    """

    is_simple = True

    def __init__(
        self,
        url: str = "",
        token_file: str = "",
        checkpoint: str = "",
        root: str = "",
        python: str = "",
        overrides: str = "",
        dtype: str = "auto",
        device: str | None = None,
        max_new_tokens: int = DEFAULT_TOKENS,
        on_failure: str = "stop",
        several: str = "refuse",
        timeout_seconds: float = 3600.0,
        batch_size: Any = 1,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("one process is enough: the model is the server's (start lmms-eval without a launcher)")
        for name, value, known in (("on_failure", on_failure, FAILURES), ("several", several, SEVERAL)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(known)}")
        if bool(url) == bool(checkpoint):
            raise ValueError("give either url and token_file of a server, or checkpoint, root and python to start one")
        self.on_failure, self.several, self.timeout_seconds = on_failure, several, float(timeout_seconds)
        self.failed = 0
        self._process: subprocess.Popen[str] | None = None
        self._pictures: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()
        self._warned: set[str] = set()
        atexit.register(self.close)
        if checkpoint:
            more = ["--dtype", str(dtype), "--device", device or "auto", "--max-new-tokens", str(max_new_tokens)]
            url, self._token = self._started(checkpoint, root, python, [*shlex.split(str(overrides)), *more])
        else:
            if not token_file:
                raise ValueError("token_file is missing; `vista-train serve --token-file FILE` writes one")
            self._token = Path(str(token_file)).read_text().strip()
        address = urllib.parse.urlsplit(url)
        if address.scheme != "http" or not address.hostname or not address.port:
            raise ValueError(f"url is {url!r}; it must be as `vista-train serve` prints it: http://127.0.0.1:PORT")
        self._address = (address.hostname, address.port)
        self.about = self._ask("GET", "about")
        self.root = os.path.abspath(root or self.about["root"])

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """The greedy answers."""
        answers = []
        for request in tqdm(requests, desc="vista_train"):
            context, how, doc_to_visual, doc_id, task, split = request.args
            said = self._put(
                "generate",
                context,
                doc_to_visual(self.task_dict[task][split][doc_id]),
                f"{task} {doc_id}",
                max_new_tokens=self._tokens(task, how),
                until=_stops(how),
            )
            tokens = TokenCounts(output_tokens=said.get("tokens", 0))
            answers.append(GenerationResult(said.get("text", ""), tokens))
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """For each choice its loss, the sum of its tokens' in nats, and whether greedy decoding would say it.

        It is the loss, for lmms-eval takes the choice with the least (its issue 370). The pair travels in a
        GenerationResult, since lmms-eval 0.7.3 makes a string of a bare one, and then cannot read it.
        """
        answers = []
        bar = tqdm(total=len(requests), desc="vista_train")
        for choices in _by_question(requests):
            context, _, doc_to_visual, doc_id, task, split = choices[0].args
            doc = self.task_dict[task][split][doc_id]
            targets = [one.args[1](doc) if callable(one.args[1]) else one.args[1] for one in choices]
            said = self._put(
                "loglikelihood",
                context,
                doc_to_visual(doc) if callable(doc_to_visual) else None,
                f"{task} {doc_id}",
                # The delimiter between a context and what continues it: an answer of a conversation has none.
                candidates=[str(target).strip() for target in targets],
            )
            if said.get("failure"):
                raise RuntimeError(
                    f"{task} {doc_id}: {said['failure']}; on_failure=empty is for answers that are generated: of "
                    "choices that cannot be weighed lmms-eval would take the first"
                )
            pairs = zip(said["log_likelihoods"], said["exact"], strict=True)
            answers += [GenerationResult((-likely, exact)) for likely, exact in pairs]  # type: ignore[arg-type]
            bar.update(len(choices))
        bar.close()
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Nothing: a model of vista_train is shown one video, with its first question."""
        raise NotImplementedError(
            "vista_train answers one question about one video: tasks of output_type generate_until_multi_round, which "
            "show more as the conversation goes on, cannot be run on it"
        )

    def clean(self) -> None:
        """lmms-eval has all answers: the server that was started here, and the pictures, can go."""
        super().clean()
        self.close()

    def close(self) -> None:
        """End what was started here."""
        if self.failed:
            LOG.warning("%d answers are empty: what they are about could not be shown", self.failed)
            self.failed = 0
        if self._process is not None:
            assert self._process.stdin is not None
            # It ends when there is no more to read.
            self._process.stdin.close()
            try:
                self._process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process = None
        if self._pictures is not None:
            self._pictures.cleanup()
            self._pictures = None

    def _started(self, checkpoint: str, root: str, python: str, more: Sequence[str]) -> tuple[str, str]:
        """Address and token of a server that is started for this evaluation."""
        if not root or not python:
            raise ValueError("checkpoint needs root, the folder that videos are in, and python, vista_train's own")
        # What this environment says of Python's paths holds for no other.
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        with tempfile.TemporaryDirectory() as folder:
            token_file = Path(folder, "token")
            command = [str(python), "-m", "vista_train.cli", "serve", str(checkpoint), *more]
            command += ["--root", str(root), "--token-file", str(token_file), "--until-eof"]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=kept,
                # Ctrl-C is for lmms-eval, which then ends the server.
                start_new_session=True,
            )
            assert self._process.stdout is not None
            url = _address(self._process.stdout)
            if not url:
                code = self._process.wait()
                self._process = None
                raise RuntimeError(f"vista-train serve ended with code {code} before it was ready; it says why above")
            # What libraries say there must not fill the pipe.
            threading.Thread(target=_address, args=(self._process.stdout,), daemon=True).start()
            return url, token_file.read_text()

    def _put(self, endpoint: str, context: str, visuals: Any, where: str, **more: Any) -> dict[str, Any]:
        """What the server says to a question; an empty answer where it cannot be put and that is to be borne."""
        try:
            with self._shown(visuals) as video:
                messages = [{"role": "user", "content": context}]
                said = self._ask("POST", endpoint, {"messages": messages, "video": video, **more})
            failure = said["failure"]
        except CannotShowError as error:
            said, failure = {"failure": str(error)}, str(error)
        if failure and self.on_failure == "stop":
            raise RuntimeError(f"{where}: {failure} (model_args on_failure=empty goes on without an answer)")
        if failure and endpoint == "generate":
            self.failed += 1
            LOG.warning("%s: no answer: %s", where, failure)
        return said

    def _ask(self, method: str, endpoint: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(*self._address, timeout=self.timeout_seconds)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, f"/{endpoint}", None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            status, said = response.status, json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            place = "{}:{}".format(*self._address)
            why = f"{type(error).__name__}: {error}"
            raise RuntimeError(f"no answer of vista-train serve at {place} ({why})") from error
        finally:
            connection.close()
        if status != http.HTTPStatus.OK:
            raise RuntimeError(f"vista-train serve says {status} to {endpoint}: {said['error']}")
        return dict(said)

    def _tokens(self, task: str, how: dict[str, Any]) -> int:
        """How long an answer may be: as the task says, and no longer than the server lets it."""
        if how.get("do_sample") or how.get("temperature") or how.get("num_beams", 1) not in (None, 1):
            self._warn(f"{task} asks for sampling or beams; answers are greedy")
        wanted, most = int(how.get("max_new_tokens") or DEFAULT_TOKENS), int(self.about["max_new_tokens"])
        if wanted > most:
            self._warn(f"{task} lets answers have {wanted} tokens, the server {most} (serve --max-new-tokens)")
        return min(wanted, most)

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            LOG.warning("%s", what)

    @contextmanager
    def _shown(self, visuals: Any) -> Iterator[str | None]:
        """The path of what a task shows, as the server knows it; None for words alone."""
        shown = [one for one in _flat(visuals) if one is not None]
        if not shown:
            yield None
            return
        if len(shown) == 1 and isinstance(shown[0], (str, os.PathLike)):
            yield self._key(os.fspath(shown[0]))
            return
        pictures = [picture for one in shown if (picture := _picture(one)) is not None]
        if len(shown) == 1 and not pictures:
            raise CannotShowError(f"it shows a {type(shown[0]).__name__}; videos are shown by path, and pictures")
        if len(pictures) < len(shown) or (len(pictures) > 1 and self.several == "refuse"):
            raise CannotShowError(
                f"it shows {len(shown)} pictures or videos at a time, a model of vista_train is shown one "
                "(model_args several=frames shows pictures of one size as the frames of a video)"
            )
        if len({picture.size for picture in pictures}) > 1:
            raise CannotShowError(f"its {len(pictures)} pictures differ in size, and cannot be the frames of one video")
        folder = self._written(pictures)
        yield self._key(str(folder / "frame_0.png" if len(pictures) == 1 else folder))
        shutil.rmtree(folder)

    def _written(self, pictures: Sequence[Image.Image]) -> Path:
        """A folder of frames."""
        if self._pictures is None:
            try:
                self._pictures = tempfile.TemporaryDirectory(prefix=".vista_train_lmms_", dir=self.root)
            except OSError as error:
                raise ValueError(f"pictures are shown as files in root, {self.root!r}: {error.strerror}") from error
        folder = Path(self._pictures.name, str(next(self._numbers)))
        folder.mkdir()
        for number, picture in enumerate(pictures):
            plain = picture.convert("RGB")
            # What a file says of how to turn it has been heard, or was to be ignored.
            plain.info.clear()
            plain.save(folder / f"frame_{number}.png")
        return folder

    def _key(self, path: str) -> str:
        """A path relative to root where it lies there; else absolute, which the server may refuse."""
        for place, root in ((os.path.abspath(path), self.root), (os.path.realpath(path), os.path.realpath(self.root))):
            if os.path.commonpath([place, root]) == root:
                return os.path.relpath(place, root)
        return os.path.abspath(path)


def _address(lines: IO[str]) -> str:
    """The line that is an address, "" if none comes; what else is said, by libraries, goes to the terminal."""
    for line in lines:
        if line.startswith("http://"):
            return line.strip()
        sys.stderr.write(line)
    return ""


def _stops(how: dict[str, Any]) -> list[str]:
    """Where answers end; as with lmms-eval's own models for Qwen, a blank line, its default, does not end them."""
    until = how.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop and stop != BLANK_LINE]


def _by_question(requests: Sequence[Instance]) -> Iterator[list[Instance]]:
    """Requests that follow one another and differ in the choice alone."""
    for request in requests:
        if len(request.args) != 6:
            raise ValueError("choices without their question (the metric acc_mutual_info) are not weighed")
    grouped = itertools.groupby(requests, lambda one: (one.args[0], *one.args[3:]))
    return (list(choices) for _, choices in grouped)


def _flat(visuals: Any) -> Iterator[Any]:
    if isinstance(visuals, (list, tuple)):
        for one in visuals:
            yield from _flat(one)
    else:
        yield visuals


def _picture(shown: Any) -> Image.Image | None:
    """The picture that something is; None for all else."""
    if isinstance(shown, Image.Image):
        return shown
    if isinstance(shown, str) and shown.lower().endswith(PICTURES):
        try:
            picture = Image.open(shown)
            picture.load()
            return picture
        except OSError as error:
            raise CannotShowError(f"{shown}: is no picture that can be read ({type(error).__name__})") from error
    return None
