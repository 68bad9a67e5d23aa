"""Endpoints as judges, against a local server that misbehaves: nothing guessed or paid twice."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from study.cli import main
from study.data.pairs import Message
from study.errors import ConfigError, ModelError
from study.records.files import read_json
from study.records.layout import judged_path
from study.release.chosen import all_runs
from study.release.judge.client import Endpoint, OverBudgetError, read_body, wait_asked
from study.release.judge.endpoint import open_endpoint, read_word
from study.release.judge.judging import judge_runs
from study.release.judge.questions import Question

pytest.importorskip("tenacity", reason="pip install '.[judge]'")

KEY = "sk-secret-0123456789"
OK, HANG, CUT_BODY = "ok", "hang", "cut"


class Server:
    """An endpoint that answers by a function of the request, after what it is told to do first."""

    def __init__(self):
        self.seen, self.headers, self.first = [], [], []
        self.answer = lambda a, b: "A" if len(a) < len(b) else "B"
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.seen.append(body)
                    outer.headers.append(dict(self.headers))
                    todo = outer.first.pop(0) if outer.first else OK
                outer.reply(self, body, todo)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def reply(self, handler, body, todo):
        status, headers, content = 200, {}, None
        if todo == HANG:
            time.sleep(0.6)
            return
        if isinstance(todo, tuple):
            status, headers, content = todo
        if content is None:
            user = body["messages"][1]["content"]
            a = user.partition("<answer A>\n")[2].partition("\n</answer A>")[0]
            b = user.partition("<answer B>\n")[2].partition("\n</answer B>")[0]
            told = self.answer(a, b)
            word, ended = told if isinstance(told, tuple) else (told, "stop")
            content = {
                "choices": [{"message": {"content": word}, "finish_reason": ended}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 1},
            }
        raw = json.dumps(content).encode() if not isinstance(content, bytes) else content
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw[: len(raw) // 2] if todo == CUT_BODY else raw)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / "cache"))
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture
def judge(server):
    """Open a judge at the server, its waits cut down; ``waits`` keeps those it was told to make."""

    def opened(**changes):
        fast = {"first_wait_s": 0.001, "timeout_s": 5.0, "tries": 4, "parallel": 2}
        found = open_endpoint(Endpoint(url=server.url, model="m", **fast | changes))
        found.waits = []
        found.client.retrying = found.client.retrying.copy(sleep=found.waits.append)
        return found

    return opened


def questions(n=3):
    return [
        Question(
            example_id=f"{i}",
            cluster=f"{i}",
            prompt=(Message("user", f"Question {i}?"),),
            first="Short.",
            second=f"A longer answer, number {i}.",
        )
        for i in range(n)
    ]


def test_both_orders_are_asked_and_averaged(server, judge):
    (won,) = judge().compare(questions(1))

    assert len(server.seen) == 2
    assert (won.won, won.parts, won.turned) == (1.0, (1.0, 1.0), False)
    assert server.seen[0]["messages"][1]["content"] != server.seen[1]["messages"][1]["content"]


def test_a_judge_that_looks_at_places_alone_always_turns(server, judge):
    server.answer = lambda a, b: "A"
    opinions = judge().compare(questions())

    assert [(one.won, one.turned) for one in opinions] == [(0.5, True)] * 3


def test_ties_count_half_and_equal_answers_are_not_asked_about(server, judge):
    server.answer = lambda a, b: "tie"
    (tied,) = judge().compare(questions(1))
    n_asked = len(server.seen)
    same = Question(example_id="s", cluster="s", prompt=(), first="Yes.", second="Yes. ")
    (equal,) = judge().compare([same])

    assert (tied.won, equal.won) == (0.5, 0.5)
    assert len(server.seen) == n_asked


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ("Both have merits.", "neither A, B nor tie"),
        ("", "neither A, B nor tie"),
        ("A or B", "neither A, B nor tie"),
        (("A because it is", "length"), "cut off at its limit"),
    ],
)
def test_nonsense_and_half_answers_are_counted_never_guessed_and_not_paid_twice(
    server, judge, told, missing
):
    server.answer = lambda a, b: told
    first = judge().compare(questions())
    n_asked = len(server.seen)
    again = judge().compare(questions())

    assert [(one.won, one.missing) for one in first] == [(None, missing)] * 3
    assert again == first
    assert len(server.seen) == n_asked


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("A", "a"), (" b.\n", "b"), ("[[A]]", "a"), ("**Tie**", "tie"), ("Answer B", "b"),
        ("<think>B? No.</think>A", "a"), ("A is better", ""), ("C", ""), ("answer", ""),
    ],
)  # fmt: skip
def test_a_verdict_is_one_word(text, word):
    assert read_word(text) == word


def test_what_passes_is_tried_again_and_waits_as_long_as_it_is_asked_to(server, judge):
    server.first = [(429, {"Retry-After": "7"}, {"error": {}}), (503, {}, b"busy"), CUT_BODY]
    found = judge()
    (won,) = found.compare(questions(1))

    assert won.won == 1.0
    assert len(server.seen) == 5
    assert found.waits[0] >= 7
    assert all(wait < 1 for wait in found.waits[1:])
    assert found.spent["calls"] == 5


def test_waits_grow_and_are_random(server, judge):
    server.first = [(500, {}, b"")] * 5
    a, b = judge(first_wait_s=1.0, tries=6), judge(first_wait_s=1.0, tries=6)
    a.compare(questions(1))
    server.first = [(500, {}, b"")] * 5
    b.compare([Question(example_id="o", cluster="o", prompt=(), first="x", second="other")])

    assert len(a.waits) == 5
    assert all(wait <= 2**n for n, wait in enumerate(a.waits))
    assert a.waits != b.waits


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 0), ("12", 12), ("-3", 0), ("soon", 0), ("nan", 0)]
)
def test_retry_after_is_seconds(header, seconds):
    assert wait_asked(header) == seconds


def test_retry_after_may_be_a_date():
    in_half_an_hour = format_datetime(datetime.now(UTC) + timedelta(minutes=30), usegmt=True)

    assert 1500 <= wait_asked(in_half_an_hour) <= 1800


def test_nobody_waits_for_an_hour(server, judge):
    server.first = [(429, {"Retry-After": "3600"}, {"error": {"message": "slow down"}})]

    with pytest.raises(ModelError, match="come back in 60 minutes"):
        judge().compare(questions(1))


def test_late_answers_are_counted_and_asked_for_again_the_next_time(server, judge):
    server.first = [OK, HANG, HANG]
    first = judge(timeout_s=0.3, tries=2, parallel=1).compare(questions(2))
    again = judge().compare(questions(2))

    assert sorted(one.missing for one in first) == ["", "no answer in time"]
    assert [one.won for one in again] == [1.0, 1.0]
    assert len(server.seen) == 1 + 2 + 2 + 1


def test_a_dead_endpoint_ends_it_and_verdicts_so_far_are_kept(server, judge):
    server.first = [OK, OK, *[(500, {}, b"")] * 100]

    with pytest.raises(ModelError, match=r"did not answer in 2 tries.*the same command goes on"):
        judge(tries=2, parallel=1).compare(questions(8))

    server.first = []
    n_asked = len(server.seen)
    assert [one.won for one in judge().compare(questions(8))] == [1.0] * 8
    assert len(server.seen) == n_asked + 14


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (401, {"error": {"message": f"Incorrect key {KEY}"}}, "answers 401"),
        (404, {"error": {"message": "no such model"}}, "is 'm' a model of"),
        (400, {"error": {"message": "use max_completion_tokens"}}, "--body adds fields"),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, "insufficient_quota"),
        (302, {"error": {}}, "answers 302"),
    ],
)
def test_what_waiting_does_not_mend_ends_it_at_once_without_the_key(
    server, judge, status, content, message
):
    server.first = [(status, {}, content)]
    found = judge(key=KEY)

    with pytest.raises(ModelError, match=message) as raised:
        found.compare(questions(1))
    assert len(server.seen) == 1
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{raised.value}{found.endpoint!r}"


def test_one_request_that_is_refused_is_counted_and_the_others_go_on(server, judge):
    server.first = [OK, (400, {}, {"error": {"message": "content filter"}})]
    opinions = judge(parallel=1).compare(questions(2))

    assert sorted(one.missing for one in opinions) == ["", "refused by the endpoint"]


def test_what_it_takes_is_told_beforehand_less_what_is_kept(judge):
    prices = {"price_in": 2.0, "price_out": 8.0}
    found = judge(**prices)
    before = found.ahead(questions(3))
    found.compare(questions(2))
    after = found.ahead(questions(3))

    assert (before.calls, before.kept, before.answer_tokens) == (6, 0, 96)
    assert before.cost == pytest.approx((before.prompt_tokens * 2 + 96 * 8) / 1e6)
    assert (after.calls, after.kept) == (2, 4)
    assert found.spent["cost"] == pytest.approx(4 * (100 * 2 + 8) / 1e6)


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"max_calls": 5}, 5),
        ({"max_cost": 0.001, "price_in": 2.0, "price_out": 8.0}, 4),
    ],
)
def test_no_call_is_sent_beyond_the_budget_and_more_money_goes_on(server, judge, limits, most):
    with pytest.raises(OverBudgetError, match="the limit of"):
        judge(**limits).compare(questions(4))

    n_first = len(server.seen)
    assert n_first <= most
    assert [one.won for one in judge().compare(questions(4))] == [1.0] * 4
    assert len(server.seen) == 8


def test_tries_that_fail_count_toward_the_limit_of_calls(server, judge):
    server.first = [(500, {}, b"")] * 10

    with pytest.raises(OverBudgetError, match="3 calls"):
        judge(max_calls=3, tries=9).compare(questions(1))
    assert len(server.seen) == 3


def test_another_question_model_or_address_is_another_verdict(server, judge):
    judge().compare(questions(1))
    judge(answer_tokens=50).compare(questions(1))
    judge(body={"seed": 3, "max_tokens": None}).compare(questions(1))

    assert len(server.seen) == 6
    assert (server.seen[-1]["seed"], "max_tokens" in server.seen[-1]) == (3, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "ftp://x"}, "http:// or https://"),
        ({"url": "https://user:pw@x/v1"}, "bare address"),
        ({"url": "https://x/v1?api_key=1"}, "bare address"),
        ({"url": "http://example.org/v1", "key": KEY}, "not sent unencrypted"),
        ({"url": "https://x/v1", "max_cost": 1.0}, "both --price-in and --price-out"),
        ({"url": "https://x/v1", "price_in": 1.0}, "both --price-in and --price-out"),
    ],
)
def test_addresses_that_give_keys_away_and_limits_without_prices_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message) as raised:
        Endpoint(**{"model": "m", **changes})
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_a_body_must_be_an_object(text):
    with pytest.raises(ConfigError, match="--body"):
        read_body(text)


def test_the_command_asks_first_and_its_key_is_in_no_output_or_record(
    finished, server, monkeypatch, tmp_path
):
    monkeypatch.setenv("ORPO_STUDY_JUDGE_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-provider")
    command = ["judge", "--recipe", "small", "--arm", "sft", "--endpoint", server.url]
    command += ["--model", "big/one:free", "--limit", "3", "--pairs", "4", "--runs", str(finished)]
    unasked = CliRunner().invoke(main, command)
    n_unasked = len(server.seen)
    done = CliRunner().invoke(main, [*command, "--yes"], catch_exceptions=False)
    n_done = len(server.seen)
    again = CliRunner().invoke(main, [*command, "--json"], catch_exceptions=False)
    (one, _) = all_runs(["sft"], runs=finished, recipe="small")
    (path,) = (one.folder.path / "judged").glob("big--one-free-*.json")
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    written += [p.read_bytes() for p in finished.rglob("*.json")]

    assert unasked.exit_code == 1
    assert "calls to http://127.0.0.1" in unasked.output
    assert "no prices were given" in unasked.output
    assert "add --yes" in unasked.output
    assert (n_unasked, done.exit_code, again.exit_code) == (0, 0, 0)
    assert n_done == len(server.seen) > 0
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert not any(KEY.encode() in content for content in written)
    assert KEY not in unasked.output + done.output + again.output
    assert read_json(path)["spent"]["calls"] <= n_done


def test_a_budget_that_ends_early_keeps_whole_runs_and_the_rest_goes_on(finished, server, judge):
    runs = all_runs(["sft", "orpo"], runs=finished, recipe="small")
    told = []

    def asked(one):
        return judge_runs(runs, one, limit=4, n_pairs=3, confirm=told.append, say=lambda _: None)

    with pytest.raises(OverBudgetError, match=r"of 4 runs are judged.*go on with the same command"):
        asked(judge(max_calls=8, answer_tokens=7))
    again = judge(answer_tokens=7)
    found = asked(again)
    n_calls = len(server.seen)
    asked(judge(answer_tokens=7))

    assert told[1].calls < told[0].calls
    assert told[1].kept > 0
    assert len(found.runs) == 4
    assert len(server.seen) == n_calls
    assert len(told) == 2
    assert all(judged_path(run.folder.path, again.slug).is_file() for run in runs)


def test_verdicts_that_are_missing_for_now_are_asked_for_by_the_next_command(
    finished, server, judge
):
    runs = all_runs(["base"], runs=finished, recipe="small")
    server.first = [OK, OK, (422, {}, b"not now")]

    def asked():
        return judge_runs(
            runs, judge(answer_tokens=9, parallel=1), limit=3, n_pairs=3,
            confirm=lambda _: None, say=lambda _: None,
        )  # fmt: skip

    first, second = asked(), asked()

    assert first.judge["held_out"]["missing"] == {"refused by the endpoint": 1}
    assert second.judge["held_out"]["missing"] == {}
    assert second.judge["held_out"]["wins"].count(None) == 0


def test_on_a_terminal_it_is_asked_and_a_no_sends_nothing(finished, server, monkeypatch):
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("study.cli.judging.sys", terminal)
    command = ["judge", "--recipe", "small", "--arm", "base", "--endpoint", server.url]
    command += ["--model", "m", "--limit", "1", "--pairs", "2", "--runs", str(finished)]
    prices = ["--price-in", "2", "--price-out", "8", "--max-cost", "1", "--max-calls", "50"]
    refused = CliRunner().invoke(main, [*command, *prices], input="n\n")
    n_refused = len(server.seen)
    allowed = CliRunner().invoke(main, [*command, *prices], input="y\n", catch_exceptions=False)

    assert (refused.exit_code, n_refused, allowed.exit_code) == (1, 0, 0)
    assert "cost: at most 0.00" in refused.output
    assert "--max-calls 50 and --max-cost 1 end it" in refused.output
    assert len(server.seen) > 0
