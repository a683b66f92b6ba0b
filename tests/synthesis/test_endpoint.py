"""An endpoint: what is sent, what is waited for, and what is kept from whom."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from tests.synthesis.conftest import KEY, QUICK, reply_to
from vista_train.synthesis import prompts
from vista_train.synthesis.budget import Budget, BudgetReached, Prices, Tokens
from vista_train.synthesis.endpoint import Connection, Endpoint, EndpointError, Retries, UnavailableError
from vista_train.synthesis.pace import Pace, Stopped

MESSAGES = prompts.messages("needle", ["A dog runs."], 3)


@pytest.fixture
def opened(connection):
    """Makes endpoints, and closes them."""
    made = []

    def make(connection=connection, budget=None, pace=None, retries=QUICK) -> Endpoint:
        budget = budget or Budget(Prices(), None, lambda record: None)
        made.append(Endpoint(connection, budget, pace or Pace(), np.random.default_rng(0), retries))
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.close()


def test_nothing_is_sent_but_what_it_takes(server, opened, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-somebody")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "admin-of-somebody")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.example/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: of-somebody\nAuthorization: Bearer of-somebody")
    assert opened().ask(MESSAGES).problem == ""
    (heard,) = server.heard
    assert heard.headers == {
        "host": server.url.removeprefix("http://").removesuffix("/v1"),
        "authorization": f"Bearer {KEY}",
        "accept": "application/json",
        "content-type": "application/json",
        "content-length": heard.headers["content-length"],
        "user-agent": "vista_train",
    }
    assert heard.body == {"model": "m", "messages": MESSAGES, "temperature": 0.0, "max_tokens": 400}


def test_other_names_for_the_limit(server, opened):
    server.script = lambda number, heard: "status:404"
    named = Connection("m", server.url, reply_tokens=9, reply_tokens_name="max_completion_tokens")
    with pytest.raises(EndpointError):
        opened(named).ask(MESSAGES)
    assert server.heard[0].body["max_completion_tokens"] == 9
    assert "max_tokens" not in server.heard[0].body


def test_whose_key_goes_where():
    there = {"OPENAI_API_KEY": " sk-openai ", "LOCAL_KEY": "local"}
    assert Connection("m", "https://api.openai.com/v1").key(there) == "sk-openai"
    assert Connection("m", "http://127.0.0.1:8000/v1").key(there) == "sk-openai"
    assert Connection("m", "http://[::1]:8000/v1").key(there) == "sk-openai"
    assert Connection("m", "http://localhost:8000/v1").key({}) == "none"
    # In the clear, to another machine: only a key that was named for it.
    assert Connection("m", "http://gpu7:8000/v1").key(there) == "none"
    assert Connection("m", "http://gpu7:8000/v1", api_key_env="LOCAL_KEY").key(there) == "local"
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        Connection("m", "https://api.openai.com/v1").key({})
    with pytest.raises(ValueError, match="OTHER is not set"):
        Connection("m", "http://localhost/v1", api_key_env="OTHER").key(there)


@pytest.mark.parametrize(
    "url", ["", "host/v1", "ftp://host/v1", "http://", "https://user:secret99@host/v1", "https://host/v1?key=secret99"]
)
def test_an_address_that_cannot_be_meant(url):
    with pytest.raises(ValueError, match=r"base-url is .*it must look like https://host/v1") as caught:
        Connection("m", url)
    assert "secret99" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"temperature": 2.5}, {"reply_tokens": 0}, {"model": " "}, {"temperature": float("nan")}]
)
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        Connection(**{"model": "m", "base_url": "http://localhost/v1"} | wrong)


def test_a_server_that_says_when_is_asked_then_and_by_nobody_before(server, opened):
    """While one is told to wait, the others wait as well."""
    server.script = lambda number, heard: "status:429,0.4" if number == 0 else None
    endpoint = opened()
    first = threading.Thread(target=endpoint.ask, args=(MESSAGES,))
    first.start()
    while not server.heard:
        time.sleep(0.001)
    time.sleep(0.05)
    endpoint.ask(MESSAGES)
    first.join()
    at = [heard.at for heard in server.heard]
    assert len(at) == 3
    assert 0.38 < min(at[1:]) - at[0] < 1.0


def test_a_pause_that_is_too_long_is_left_to_the_user(server, opened):
    server.script = lambda number, heard: "status:429,3600"
    with pytest.raises(EndpointError, match=r"asks for a pause of 3600 s .*the same command goes on, later"):
        opened().ask(MESSAGES)
    assert len(server.heard) == 1


def test_a_date_is_understood_too(server, opened):
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3000))
    server.script = lambda number, heard: f"status:503,{later}"
    with pytest.raises(EndpointError, match=r"asks for a pause of (2999|3000) s"):
        opened().ask(MESSAGES)


def test_waits_grow_and_are_no_two_alike(server, opened):
    server.script = lambda number, heard: "status:500"
    with pytest.raises(UnavailableError, match="no answer in 5 tries; the last time: Error code: 500"):
        opened(retries=Retries(tries=5, first_seconds=0.04, most_seconds=0.16)).ask(MESSAGES)
    at = [heard.at for heard in server.heard]
    waits = [after - before for before, after in itertools.pairwise(at)]
    assert len(waits) == 4
    for wait, most in zip(waits, (0.04, 0.08, 0.16, 0.16), strict=True):
        assert most / 2 <= wait < most + 0.1
    assert waits[2] != waits[3]


@pytest.mark.parametrize(
    ("fault", "cost"),
    [
        ("status:429", "nothing"),
        ("status:500", "most"),
        ("drop", "most"),
        ("slow:0.5", "most"),
        ("trickle:0.1", "most"),
        ("body", "most"),
        ("huge", "most"),
        ("no_usage", "most"),
        ("no_choices", "billed"),
        ("length", "billed"),
        (None, "billed"),
    ],
)
def test_what_counts_as_paid(server, opened, fault, cost):
    """What nobody knows the price of counts in full; what was turned away, not at all."""
    server.script = lambda number, heard: fault
    budget = Budget(Prices(1, 1), 1.0, lambda record: None)
    endpoint = opened(Connection("m", server.url, timeout=0.25, reply_tokens=50), budget, retries=Retries(tries=1))
    most = endpoint.most(MESSAGES)
    is_lost = fault in ("status:429", "status:500", "drop", "slow:0.5", "trickle:0.1", "body", "huge")
    began = time.monotonic()
    if is_lost:
        with pytest.raises(UnavailableError):
            endpoint.ask(MESSAGES)
    else:
        assert bool(endpoint.ask(MESSAGES).problem) == (fault in ("no_choices", "length"))
    assert time.monotonic() - began < 0.5
    assert budget.spent == {"nothing": Tokens(), "most": most, "billed": Tokens(*server.billed)}[cost]
    assert server.billed[0] <= most.sent
    assert server.billed[1] <= most.received


def test_nobody_there_costs_nothing(server, opened):
    budget = Budget(Prices(1, 1), 1.0, lambda record: None)
    nobody = Connection("m", "http://127.0.0.1:9/v1")
    with pytest.raises(UnavailableError, match="ConnectError"):
        opened(nobody, budget).ask(MESSAGES)
    assert budget.spent == Tokens()


def test_requests_and_tokens_come_at_their_pace(server, opened):
    for pace, least in ((Pace(requests_per_minute=1200), 0.05), (Pace(tokens_per_minute=60 * 20_000), None)):
        server.heard.clear()
        endpoint = opened(pace=pace)
        threads = [threading.Thread(target=endpoint.ask, args=(MESSAGES,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        at = sorted(heard.at for heard in server.heard)
        most = sum(vars(endpoint.most(MESSAGES)).values())
        # Threads that wait need some time to wake up, so a gap may be shorter if the one before was longer.
        between = least or most / 20_000
        assert at[-1] - at[0] > 5 * between * (0.9 if least else 0.5)


def test_tokens_that_were_not_taken_are_given_back():
    pace = Pace(tokens_per_minute=60)
    pace.wait(1000)
    pace.give_back(1000)
    began = time.monotonic()
    pace.wait(1)
    assert time.monotonic() - began < 0.1


def test_whoever_waits_wakes_when_all_is_over():
    pace = Pace(requests_per_minute=1)
    pace.wait(0)
    threading.Timer(0.05, pace.stop).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        pace.wait(0)
    assert time.monotonic() - began < 1


def test_a_budget_remembers_what_was_under_way():
    noted: list[dict] = []
    first = Budget(Prices(1e6, 1e6), 100.0, noted.append)
    paid, lost = first.hold(Tokens(10, 20)), first.hold(Tokens(5, 5))
    first.settle(paid, Tokens(3, 4))
    second = Budget(Prices(1e6, 1e6), 30.0, noted.append)
    for record in tuple(noted):
        second.recall(record)
    second.forfeit()
    assert (second.spent, second.cost) == (Tokens(8, 9), 17.0)
    assert second.hold(Tokens(6, 7)) > lost
    with pytest.raises(ValueError, match="needs prices"):
        Budget(Prices(), 1.0, noted.append)
    with pytest.raises(ValueError, match="budget is 0"):
        Budget(Prices(1), 0.0, noted.append)
    with pytest.raises(ValueError, match="price-out is -1"):
        Prices(1, -1)


def test_a_budget_waits_for_answers_that_leave_money_over():
    budget = Budget(Prices(1e6, 0), 10.0, lambda record: None)
    number = budget.hold(Tokens(9))
    threading.Timer(0.05, budget.settle, (number, Tokens(2))).start()
    began = time.monotonic()
    budget.settle(budget.hold(Tokens(8)), Tokens(8))
    assert time.monotonic() - began >= 0.04
    with pytest.raises(BudgetReached):
        budget.hold(Tokens(1))


def test_replies_come_whole(server, opened):
    server.script = lambda number, heard: "fence"
    answer = opened().ask(MESSAGES)
    assert answer.text.startswith("```json\n")
    assert str(reply_to(MESSAGES)["pairs"][0]["answer"]) in answer.text
