"""Questions by a language model: none lost, none twice, none beyond the budget, killed and continued to the byte."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest

from tests.synthesis.conftest import KEY, QUICK, Heard, captions_of, reply_to
from vista_train.cli import main
from vista_train.data.check import Interrupted
from vista_train.data.journal import records
from vista_train.data.manifest import open_manifest
from vista_train.synthesis import prompts
from vista_train.synthesis.budget import Prices
from vista_train.synthesis.endpoint import Connection, EndpointError, Retries
from vista_train.synthesis.questions import ask_questions
from vista_train.synthesis.tasks import Asking

NUM_TASKS = 10 + 10 + 4 + 4
"""Of the manifest's ten clips, and of its two rows in either recording: three clips last over 30 s, and so do the last
three."""


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def ask(manifest: Path, connection: Connection, out: Path, **how):
    return ask_questions(manifest, connection, out, **({"retries": QUICK} | how))


def expected(manifest: Path) -> list[list[dict]]:
    """The pairs of every line, by the server's own rule, from nothing but the manifest."""
    lines = lines_of(manifest)
    by_place = {(line["video"], line["start"]): line for line in lines}
    told = []
    for line in lines:
        pairs = list(line.get("qa", []))
        for kind in ("needle", "choice", "story", "order"):
            rows = [line]
            if kind in ("story", "order"):
                # Clips of 12 s: rows begin with the first, and, after three, with what is filled up from before.
                if line["start"] not in (0, 24.0):
                    continue
                rows = [by_place[line["video"], line["start"] + 12.0 * step] for step in range(3)]
            reply = reply_to(prompts.messages(kind, [row["caption"] for row in rows], 3))
            if kind == "story":
                reply = {"question": prompts.STORY_QUESTION, "answer": reply["story"]}
            for pair in reply.get("pairs", [reply]):
                about = {"kind": kind, "clips": 3} if len(rows) > 1 else {}
                pairs.append({"question": pair["question"], "answer": pair["answer"]}
                             | {"distractors": pair.get("distractors", [])} | about)  # fmt: skip
        told.append(pairs)
    return told


def test_every_line_has_what_was_answered_and_all_it_had(server, connection, manifest, tmp_path):
    out = tmp_path / "out.jsonl"
    outcome = ask(manifest, connection, out)
    assert (outcome.answered, outcome.rejected, outcome.left) == (NUM_TASKS, 0, 0)
    assert outcome.pairs == 10 * 2 + 10 + 4 + 4
    assert len(server.heard) == outcome.asked_now == NUM_TASKS
    assert [line["qa"] for line in lines_of(out)] == expected(manifest)
    # All else is as it was written, to the byte.
    before, after = (path.read_text(encoding="utf-8").split("\n") for path in (manifest, out))
    assert len(before) == len(after)
    assert before[4] == after[4] == ""
    for old, new in zip(before, after, strict=True):
        assert new.startswith(old[:-1].partition(', "qa"')[0])
    assert '"start":0' in after[1]
    assert (tmp_path / "out.jsonl.work" / "rejects.jsonl").read_text() == ""
    assert (outcome.tokens_in, outcome.tokens_out) == tuple(server.billed)
    open_manifest(out, tmp_path / "cache")


FAULTS = ("status:429,0.05", "status:500", "status:503,0.02", "slow:2", "drop", "body", "no_usage", "no_choices",
          "length", "prose", "cut", "fence", "echo", "echo_inside", "schema", "doubled", "gives_away", "trickle:0.3",
          "huge")  # fmt: skip


def test_whatever_goes_wrong_once_no_pair_is_lost_and_none_is_there_twice(server, manifest, tmp_path):
    patient = Connection("m", server.url, 0.0, timeout=0.8, reply_tokens=400)
    clean = tmp_path / "clean.jsonl"
    ask(manifest, patient, clean)
    num_clean = len(server.heard)
    seen: dict[str, str] = {}

    def once_each(number: int, heard: Heard) -> str | None:
        asked = json.dumps(captions_of(heard.body["messages"])) + heard.kind
        with server.lock:
            is_first = asked not in seen
            return seen.setdefault(asked, FAULTS[len(seen) % len(FAULTS)]) if is_first else None

    server.script = once_each
    out = tmp_path / "out.jsonl"
    outcome = ask(manifest, patient, out, workers=4)
    assert (outcome.answered, outcome.rejected, outcome.left) == (NUM_TASKS, 0, 0)
    assert out.read_bytes() == clean.read_bytes()
    assert set(seen.values()) == set(FAULTS)
    # A fence is no fault, nor is an unknown price.
    assert len(server.heard) - num_clean >= 2 * NUM_TASKS - 8
    tried = Counter(record["reason"] for _, record in records(tmp_path / "out.jsonl.work/journal.jsonl")
                    if "reason" in record)  # fmt: skip
    for reason in ("it is not a JSON object and nothing else", "there is no reply", "it is too long and was cut off"):
        assert tried[reason]


def test_replies_that_never_hold_are_rejected_with_their_reasons(server, connection, manifest, tmp_path):
    server.script = lambda number, heard: (
        "gives_away" if heard.kind == "choice" and "Person 7" in str(heard.body) else None
    )
    out, rejects = tmp_path / "out.jsonl", tmp_path / "out.jsonl.work/rejects.jsonl"
    outcome = ask(manifest, connection, out)
    assert (outcome.answered, outcome.rejected, outcome.left) == (NUM_TASKS - 1, 1, 0)
    (fault,) = lines_of(rejects)
    assert (fault["line"], fault["video"], fault["kind"]) == (3, "1.mp4", "choice")
    assert fault["reason"] == "a question contains its answer"
    assert [json.loads(tried["raw"])["question"][:11] for tried in fault["tries"]] == ["Is it Right"] * 3
    asked = [heard.body["messages"][-1]["content"] for heard in server.heard
             if heard.kind == "choice" and "Person 7" in str(heard.body)]  # fmt: skip
    # The second and third time the model is told what was wrong, in words of ours.
    assert len(asked) == 3
    assert ["a question contains its answer" in text for text in asked] == [False, True, True]
    wanted = expected(manifest)
    wanted[2] = [pair for pair in wanted[2] if not pair["question"].startswith("What colour")]
    assert [line["qa"] for line in lines_of(out)] == wanted
    # What was given up is not asked again, but when that is wanted.
    num_heard = len(server.heard)
    assert ask(manifest, connection, out).rejected == 1
    assert len(server.heard) == num_heard
    server.script = lambda number, heard: None
    assert ask(manifest, connection, out, retry=True).rejected == 0
    assert len(server.heard) == num_heard + 1
    assert [line["qa"] for line in lines_of(out)] == expected(manifest)
    assert rejects.read_text() == ""


def test_answers_are_found_again_by_clip_prompt_model_and_temperature(
    server, connection, manifest, tmp_path, monkeypatch
):
    out = tmp_path / "out.jsonl"
    ask(manifest, connection, out)
    first = out.read_bytes()

    def asked_again(**how) -> int:
        before = len(server.heard)
        ask(manifest, **({"connection": connection, "out": out} | how))
        return len(server.heard) - before

    assert asked_again() == 0
    assert out.read_bytes() == first
    assert asked_again(connection=Connection("other", server.url, 0.0)) == NUM_TASKS
    assert asked_again(connection=Connection("m", server.url, 0.5)) == NUM_TASKS
    changed = manifest.read_text().replace("Person 9 opens", "Person 9 shuts").replace('"end": 60.0', '"end": 59.5')
    manifest.write_text(changed)
    # The last clips of both recordings, and the rows that they end; of the others nothing.
    assert asked_again() == 2 * 2 + 2 * 2
    story = prompts.PROMPTS["story"]
    monkeypatch.setitem(prompts.PROMPTS, "story", prompts.Prompt(story.task + " Be brief.", story.layout))
    assert asked_again() == 4


def test_a_manifest_that_has_its_questions_gets_no_second_copy(server, connection, manifest, tmp_path):
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    ask(manifest, connection, once)
    assert ask(once, connection, twice, work=tmp_path / "once.jsonl.work").pairs == 0
    assert once.read_bytes() == twice.read_bytes()


def test_the_same_clip_on_two_lines_is_asked_about_once(server, connection, manifest, tmp_path):
    with manifest.open("a") as file:
        file.write(manifest.read_text().split("\n")[0].replace('"video"', '"source": "elsewhere", "video"') + "\n")
    outcome = ask(manifest, connection, tmp_path / "out.jsonl", asking=Asking(kinds=("needle",)))
    assert (outcome.answered, len(server.heard)) == (11, 10)
    lines = lines_of(tmp_path / "out.jsonl")
    assert lines[-1]["qa"] == lines[0]["qa"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_budget_holds_whatever_goes_wrong_and_more_money_goes_on(server, manifest, tmp_path, seed):
    quick = Connection("m", server.url, 0.0, timeout=0.4, reply_tokens=200)
    prices, out = Prices(3.0, 15.0), tmp_path / "out.jsonl"
    faults = ("drop", "slow:0.6", "length", "no_usage", "status:502", "prose", "body", None)
    server.script = lambda number, heard: faults[(number * 5 + seed) % len(faults)]
    server.seconds = 0.01
    budget, spent = 0.06, 0.0
    outcome = ask(manifest, quick, out, prices=prices, budget=budget, workers=8)
    assert 0 < server.dollars(3.0, 15.0) <= outcome.dollars <= budget
    # It stops because the next might not fit, not before.
    most = (8000 * 3.0 + 200 * 15.0) / 1e6
    assert outcome.dollars > budget - most
    assert outcome.left > 0
    assert "budget of $0.06" in outcome.stopped
    assert server.most_under_way > 1
    assert len(lines_of(out)) == 10
    # Without a cent more nothing is asked; the money that is spent stays spent.
    num_heard, spent = len(server.heard), outcome.dollars
    again = ask(manifest, quick, out, prices=prices, budget=budget)
    assert (len(server.heard), again.dollars) == (num_heard, spent)
    server.script = lambda number, heard: None
    final = ask(manifest, quick, out, prices=prices, budget=2.0)
    assert (final.left, final.answered + final.rejected) == (0, NUM_TASKS)
    assert server.dollars(3.0, 15.0) <= final.dollars <= 2.0


def test_a_budget_for_one_request_sends_one_though_many_want_to(server, connection, manifest, tmp_path):
    asking = Asking(kinds=("needle",))
    server.seconds = 0.05
    most = 2 * (len(prompts.SYSTEM) + len(prompts.messages("needle", ["x" * 30], 3)[1]["content"]) + 256) + 400
    outcome = ask(manifest, connection, tmp_path / "out.jsonl", asking=asking, prices=Prices(1e6, 1e6), budget=most)
    # Where two do not fit at a time, the second waits to see what the first has cost.
    assert server.most_under_way == 1
    assert 1 < len(server.heard) < 10
    assert outcome.left == 10 - outcome.answered
    assert server.dollars(1e6, 1e6) == outcome.dollars <= most


def started(manifest: Path, server, out: Path, context, **env: str):
    words = ["questions", str(manifest), "--model", "m", "--base-url", server.url, "--out", str(out)]
    words += ["--temperature", "0", "--workers", "3", "--timeout", "5", "--reply-tokens", "400"]
    words += ["--price-in", "1", "--price-out", "1", "--budget", "10", "--cache", str(out.parent / "cache")]
    child = context.Process(target=main, args=(words,))
    child.start()
    return child


@pytest.fixture(scope="session")
def forkserver():
    """Processes that begin where everything is imported already, and have no threads of ours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vista_train.cli", "vista_train.commands.questions"])
    return context


def test_killed_and_continued_it_writes_the_same_file(server, connection, manifest, tmp_path, forkserver):
    clean = tmp_path / "clean.jsonl"

    # One reply in four cannot be used: what was wrong is told the next time, and stays known over a kill.
    def fault(number: int, heard: Heard) -> str | None:
        return None if zlib.crc32(heard.body["messages"][-1]["content"].encode()) % 4 else "cut"

    server.script = fault
    ask(manifest, connection, clean)
    num_clean, out, billed = len(server.heard), tmp_path / "out.jsonl", server.dollars(1, 1)
    rejects = (tmp_path / "clean.jsonl.work/rejects.jsonl").read_bytes()
    journal = tmp_path / "out.jsonl.work/journal.jsonl"
    for count in (1, 3, 6, 9):
        due, before = threading.Event(), len(server.heard)

        def script(number, heard, before=before, count=count, due=due):
            if number - before + 1 >= count:
                due.set()
                time.sleep(0.3)
            return fault(number, heard)

        server.script = script
        child = started(manifest, server, out, forkserver)
        assert due.wait(60)
        os.kill(child.pid, signal.SIGKILL)
        child.join(10)
        assert child.exitcode == -signal.SIGKILL
        assert not out.exists()
        with journal.open("ab") as file:
            file.write(b'{"key": "torn, and not whole')
    server.script = fault
    outcome = ask(manifest, connection, out, prices=Prices(1, 1))
    assert out.read_bytes() == clean.read_bytes()
    assert (tmp_path / "out.jsonl.work/rejects.jsonl").read_bytes() == rejects
    assert (outcome.answered + outcome.rejected, outcome.left) == (NUM_TASKS, 0)
    # What was answered before a kill is not asked again: at most the three under way each time are.
    assert NUM_TASKS < num_clean <= len(server.heard) - num_clean <= num_clean + 4 * 3
    # What was under way when the process was killed is billed, and counts.
    assert server.dollars(1, 1) - billed <= outcome.dollars


def test_ctrl_c_says_how_far_it_got_and_how_it_goes_on(server, connection, manifest, tmp_path):
    def script(number, heard):
        if number == 6:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    server.script = script
    out = tmp_path / "out.jsonl"
    with pytest.raises(Interrupted, match=r"interrupted after \d+ of 28 tasks.*the same command goes on"):
        ask(manifest, connection, out, workers=2)
    assert not out.exists()
    server.script = lambda number, heard: None
    assert ask(manifest, connection, out).left == 0
    assert len(server.heard) <= NUM_TASKS + 2
    assert [line["qa"] for line in lines_of(out)] == expected(manifest)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("401", "does not accept the key; OPENAI_API_KEY must hold a valid one"),
        ("403", "does not let this key do that"),
        ("404", "is there a model 'm'"),
        ("400", "the endpoint refuses what it is asked"),
        ("307", "it redirects to http://elsewhere.example/v1; if that is right, give it as --base-url"),
    ],
)
def test_what_somebody_must_mend_is_said_at_once(server, connection, manifest, tmp_path, status, told):
    server.script = lambda number, heard: f"status:{status}"
    with pytest.raises(EndpointError, match=told) as caught:
        ask(manifest, connection, tmp_path / "out.jsonl", workers=1)
    assert len(server.heard) == 1
    assert KEY not in str(caught.value)


def test_one_clip_that_is_refused_does_not_hold_up_the_others(server, connection, manifest, tmp_path):
    server.script = lambda number, heard: "status:400" if "Person 4" in str(heard.body) else None
    outcome = ask(manifest, connection, tmp_path / "out.jsonl", workers=1, asking=Asking(kinds=("needle",)))
    assert (outcome.answered, outcome.rejected, len(server.heard)) == (9, 1, 10)
    (fault,) = lines_of(tmp_path / "out.jsonl.work/rejects.jsonl")
    assert fault["reason"].startswith("the endpoint refuses it: Error code: 400")
    assert KEY not in json.dumps(fault)


def test_an_endpoint_that_is_gone_ends_the_run_and_nothing_is_given_up(server, connection, manifest, tmp_path):
    server.script = lambda number, heard: None if number < 5 else "status:503"
    retries = Retries(tries=2, first_seconds=0.01)
    with pytest.raises(EndpointError, match=r"no answer in 2 tries.*the same command goes on"):
        ask(manifest, connection, tmp_path / "out.jsonl", workers=1, retries=retries)
    assert len(server.heard) == 5 + 2 * 3
    server.script = lambda number, heard: None
    assert ask(manifest, connection, tmp_path / "out.jsonl").answered == NUM_TASKS


def test_the_key_is_in_no_file_and_in_no_message(server, connection, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.synthesis.conftest.reply_to", lambda messages: {"story": f"My key is {KEY}."})
    server.script = lambda number, heard: "status:429" if number < 3 else None
    outcome = ask(manifest, connection, tmp_path / "out.jsonl")
    assert outcome.rejected == NUM_TASKS
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("My key is ***" in path.read_text(errors="replace") for path in written)
    assert not [path for path in written if KEY in path.read_text(errors="replace")]


def test_on_the_command_line(server, manifest, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    words = ["questions", str(manifest), "--model", "m", "--base-url", server.url, "--out", str(out)]
    assert main([*words, "--kinds", "story,needle", "--limit", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    # The first three lines are clips 3, 0 and 7; only 0 and 7 begin rows.
    assert (told["answered"], told["rejected"], told["left"], told["lines"]) == (3 + 2, 0, 0, 10)
    assert Counter(heard.kind for heard in server.heard) == {"needle": 3, "story": 2}
    assert [len(line.get("qa", [])) for line in lines_of(out)] == [2, 3, 4, *[0] * 7]
    server.script = lambda number, heard: "cut" if heard.kind == "order" else None
    assert main([*words, "--kinds", "order"]) == 1
    assert f"4 rejected: {out}.work/rejects.jsonl" in capsys.readouterr().out
    assert main([*words, "--budget", "1"]) == 2
    assert "a budget needs prices" in capsys.readouterr().err
    for wrong in (["--kinds", "needle,poem"], ["--workers", "0"], ["--temperature", "3"], ["--pairs", "0"]):
        assert main([*words, *wrong]) == 2
    assert main([*words[:-1], str(manifest)]) == 2
    assert "left as it is" in capsys.readouterr().err
