"""The chat client against a real HTTP server that answers, fails, stalls and talks nonsense."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from llm_server import Act, Seen, prompt_of, serving
from pydantic import BaseModel, ConfigDict

from vqa2.core.errors import ConfigError, DataError
from vqa2.core.llm import BadReply, Llm, LlmError, LlmUnavailable, Request, open_llm, parse
from vqa2.launch import conf_dir

KEY = "sk-very-secret"
SOON = {"retry-after-ms": "10"}


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mark: int
    why: str


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """`opened(server, **changes)`: the http component with the values of conf/llm/http.yaml and a cache in tmp_path."""
    values = yaml.safe_load((conf_dir() / "llm" / "http.yaml").read_text())

    def make(server: Seen, **changes) -> Llm:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        llm = open_llm({**values, "retries": 2, "timeout_s": 5.0, **changes}, tmp_path / "cache" / "llm.sqlite", "llm")
        assert llm is not None
        return llm

    return make


def test_replies_of_a_file_without_models_are_kept(opened, tmp_path):
    with serving(lambda request, n: Act("hello", model="gpt-4o-2024-08-06")) as server:
        assert opened(server).chat(user("a")).usage.model == "gpt-4o-2024-08-06"
        with closing(sqlite3.connect(tmp_path / "cache" / "llm.sqlite")) as db:
            db.execute("ALTER TABLE replies DROP COLUMN model")
        again = opened(server).chat(user("a"))
        assert (again.text, again.cached, again.usage.model) == ("hello", True, "")
        assert opened(server).chat(user("b")).usage.model == "gpt-4o-2024-08-06"


def test_a_reply_is_parsed_and_asked_for_once(opened):
    with serving(lambda request, n: Act('{"mark": 2, "why": "blur"}')) as server:
        first = opened(server).chat(user("judge"), Verdict, seed=1)
        # Another client on the same file, as after a restart.
        again = opened(server).chat(user("judge"), Verdict, seed=1)
        other = opened(server).chat(user("judge"), Verdict, seed=2)
    assert first.parsed == Verdict(mark=2, why="blur")
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert again.parsed == first.parsed
    assert again.usage == first.usage
    assert (first.usage.prompt_tokens, first.usage.model) == (10, "gpt-4o")
    assert len(server.requests) == 2
    form = server.requests[0]["response_format"]["json_schema"]
    assert form["strict"]
    assert form["schema"]["additionalProperties"] is False
    assert [r["seed"] for r in server.requests] == [1, 2]
    assert server.keys == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize("changed", [{"model": "b"}, {"temperature": 0.5}, {"max_tokens": 7}])
def test_another_setting_is_another_question(opened, changed):
    with serving(lambda request, n: Act("yes")) as server:
        opened(server).chat(user("a"))
        assert not opened(server, **changed).chat(user("a")).cached
        assert opened(server, concurrency=1, timeout_s=9.0, retries=0).chat(user("a")).cached


def test_429_500_stalls_and_broken_bodies_are_tried_again(opened):
    acts = {
        "busy": [Act(status=429, body="{}", headers=SOON), Act(status=500, body="oops", headers=SOON)],
        "stall": [Act("late", delay_s=1.5)],
        "broken": [Act(body='{"choices": [{"mess')],
        "html": [Act(body="<html>login</html>", headers={"Content-Type": "text/html"})],
        "empty": [Act(body='{"error": "overloaded"}')],
    }

    def behave(request, n):
        before = acts[prompt_of(request)]
        return before[n - 1] if n <= len(before) else Act("fine")

    with serving(behave) as server:
        llm = opened(server, timeout_s=0.5)
        for name, before in acts.items():
            assert llm.chat(user(name)).text == "fine"
            assert server.asked[name] == len(before) + 1, name


def test_what_never_gets_better_is_named_and_leaves_no_reply(opened):
    refused = json.dumps({"error": {"message": f"bad {KEY}"}})
    acts = {
        "500": (Act(status=500, body="{}", headers=SOON), "500 after 3 tries"),
        "400": (Act(status=400, body=refused), "400 after one try.*bad \\*\\*\\*"),
        "stall": (Act("late", delay_s=0.8), "no answer in time, tried 3 times"),
        "nonsense": (Act(body="[1"), "no chat completion, tried 3 times"),
        "long": (Act("and so on", finish="length"), "cut off at 1500 tokens; raise llm.max_tokens"),
        "silent": (Act("", finish="content_filter"), "without text .finish_reason content_filter"),
    }  # fmt: skip
    with serving(lambda request, n: acts[prompt_of(request)][0]) as server:
        llm = opened(server, timeout_s=0.3)
        for name, (_, message) in acts.items():
            with pytest.raises(LlmError, match=message):
                llm.chat(user(name))
        assert llm.estimate([Request(messages=tuple(user(name))) for name in acts]).cached == 0


@pytest.mark.parametrize(("status", "message"), [(401, "refuses the key"), (404, "no such model or path")])
def test_a_hopeless_endpoint_stops_everything_at_once_and_keeps_the_key(opened, status, message):
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    with serving(lambda request, n: Act(status=status, body=body)) as server:
        llm = opened(server, concurrency=1)
        with pytest.raises(LlmUnavailable, match=message) as caught:
            list(llm.chat_all([Request(messages=tuple(user(str(i)))) for i in range(50)], lambda: None, 5))
    assert KEY not in str(caught.value)
    assert KEY not in repr(llm.backend)
    assert len(server.requests) < 5


def test_a_refused_reply_is_asked_for_again_with_the_reason_and_kept(opened):
    texts = ["I think it is blurry.", '{"mark": "two", "why": "blur"}', '```json\n{"mark": 2, "why": "blur"}\n```']
    with serving(lambda request, n: Act(texts[len(request["messages"]) // 2])) as server:
        llm = opened(server)
        made = llm.chat(user("judge"), Verdict)
        again = llm.chat(user("judge"), Verdict)
    assert made.parsed == Verdict(mark=2, why="blur")
    assert [text for text, _ in made.rejected] == texts[:2]
    assert "mark: Input should be a valid integer" in made.rejected[1][1]
    assert "mark: Input should be a valid integer" in server.requests[2]["messages"][-1]["content"]
    assert again.cached
    assert again.rejected == made.rejected
    assert len(server.requests) == 3


def test_after_the_repairs_it_is_a_bad_reply_with_all_attempts(opened):
    with serving(lambda request, n: Act("no")) as server:
        with pytest.raises(BadReply, match="3 replies refused, the last: reply: Invalid JSON") as caught:
            opened(server).chat(user("judge"), Verdict)
        assert len(caught.value.rejected) == 3
        with pytest.raises(BadReply):
            opened(server).chat(user("judge"), Verdict)
    assert len(server.requests) == 3, "refused replies are cached like others"


@pytest.mark.parametrize("text", ['{"mark": 1, "why": "a"} ', '```\n{"mark": 1, "why": "a"}\n```'])
def test_parse_takes_json_alone(text):
    assert parse(text, Verdict).mark == 1
    for bad in (f"Here: {text}", text + "Good luck!", text.replace("}", ', "more": 1}'), text.replace("1", "true")):
        with pytest.raises(ValueError, match="."):
            parse(bad, Verdict)


def test_many_are_asked_a_few_at_a_time_in_order_with_failures_in_place(opened):
    def behave(request, n):
        number = int(prompt_of(request))
        return Act(status=400, body="{}") if number == 3 else Act(f"r{number}", delay_s=0.02 * (number % 3))

    with serving(behave) as server:
        llm, done = opened(server, concurrency=3), []
        requests = [Request(messages=tuple(user(str(i)))) for i in range(12)]
        outcomes = list(llm.chat_all(requests, lambda: done.append(1), give_up_after=5))
    assert [o.text for i, o in enumerate(outcomes) if i != 3] == [f"r{i}" for i in range(12) if i != 3]
    assert isinstance(outcomes[3], LlmError)
    assert len(done) == 12
    assert 2 <= server.most_at_once <= 3


def test_threads_with_one_question_ask_it_once(opened):
    with serving(lambda request, n: Act("x", delay_s=0.2)) as server:
        llm = opened(server)
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda _: llm.chat(user("same")), range(4)))
    assert len(server.requests) == 1
    assert sorted(r.cached for r in replies) == [False, True, True, True]


def test_a_dead_endpoint_ends_the_run_instead_of_failing_every_row(opened):
    with serving(lambda request, n: Act(status=503, body="{}", headers=SOON)) as server:
        llm = opened(server, retries=0, concurrency=1)
        with pytest.raises(LlmUnavailable, match="4 requests in a row failed, the last: llm: 503"):
            list(llm.chat_all((Request(messages=tuple(user(str(i)))) for i in range(1000)), lambda: None, 4))
        assert len(server.requests) < 10


def test_the_estimate_counts_what_is_left_to_ask(opened):
    with serving(lambda request, n: Act("x")) as server:
        llm = opened(server, price_prompt=2.0, price_completion=10.0, max_tokens=1000)
        llm.chat(user("a" * 400))
        made = llm.estimate([Request(messages=tuple(user(c * 400))) for c in "abc"])
        assert (made.requests, made.cached) == (3, 1)
        assert made.usage.prompt_tokens == 200
        assert made.cost == pytest.approx((200 * 2 + 2000 * 10) / 1e6)
        assert "cost unknown" in str(opened(server).estimate([Request(messages=tuple(user("q")))]))
        assert len(server.requests) == 1


def test_options_are_read_off_the_first_token_once(opened):
    top = {"A": -1.0, " A": -2.0, "B": -3.0, "The": -0.5}
    with serving(lambda request, n: Act("A", top=top) if prompt_of(request) == "good?" else Act("A")) as server:
        llm = opened(server)
        made = llm.choose(user("good?"), ["A", "B", "C"])
        assert made.logprobs[0] == pytest.approx(math.log(math.exp(-1) + math.exp(-2)))
        assert made.logprobs[1:] == (pytest.approx(-3.0), None)
        assert not made.cached
        again = llm.choose(user("good?"), ["A", "B", "C"])
        assert (again.cached, again.logprobs) == (True, made.logprobs)
        with pytest.raises(LlmError, match="none of the options D, E"):
            llm.choose(user("good?"), ["D", "E"])
        with pytest.raises(LlmError, match="gives no log-probabilities"):
            llm.choose(user("bad?"), ["A"])
    assert server.requests[0]["max_tokens"] == 1
    assert server.requests[0]["top_logprobs"] == 20


KILLED = """
import sys, yaml
from pathlib import Path
from vqa2.core.llm import Request, open_llm
values = {**yaml.safe_load(Path(sys.argv[1]).read_text()), "concurrency": 2}
llm = open_llm(values, Path(sys.argv[2]), "llm")
list(llm.chat_all([Request(messages=({"role": "user", "content": str(i)},)) for i in range(20)], lambda: None, 5))
"""


def test_killed_and_started_again_nothing_answered_is_asked_twice(tmp_path):
    cache = tmp_path / "llm.sqlite"
    with serving(lambda request, n: Act(f"r{prompt_of(request)}", delay_s=0.05)) as server:
        env = {**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
        command = [sys.executable, "-c", KILLED, str(conf_dir() / "llm" / "http.yaml"), str(cache)]
        process = subprocess.Popen(command, env=env, cwd=Path(__file__).parents[2])
        deadline = time.monotonic() + 60
        while len(server.requests) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with sqlite3.connect(cache) as db:
            answered = {text.removeprefix("r") for (text,) in db.execute("SELECT text FROM replies")}
        assert 4 <= len(answered) < 20
        subprocess.run(command, env=env, cwd=Path(__file__).parents[2], check=True, timeout=120)
    assert all(server.asked[prompt] == 1 for prompt in answered)
    assert set(server.asked) == {str(i) for i in range(20)}
    assert KEY.encode() not in cache.read_bytes()


def test_without_an_endpoint_or_with_another_file_in_its_place_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ConfigError, match="llm=http: OPENAI_BASE_URL not set"):
        open_llm(yaml.safe_load((conf_dir() / "llm" / "http.yaml").read_text()), tmp_path / "c", "llm")
    (tmp_path / "other").write_text("this is a text file, long enough not to be a database")
    with pytest.raises(DataError, match="other: not a reply cache"):
        open_llm({"name": "scripted", "replies": {}}, tmp_path / "other", "llm")


def test_scripted_and_rules(tmp_path):
    assert open_llm({"name": "rules"}, tmp_path / "c", "llm") is None
    llm = open_llm({"name": "scripted", "replies": {"bl.r": "yes", ".": "no"}}, tmp_path / "c", "llm")
    assert [llm.chat(user(q)).text for q in ("blur?", "noise?")] == ["yes", "no"]
    levels = open_llm({"name": "scripted", "replies": {"rate": "[-1, null]", ".": "A"}}, tmp_path / "d", "llm")
    assert levels.choose(user("rate"), ["A", "B"]).logprobs == (-1, None)
    with pytest.raises(LlmError, match="'A' is no list of 2 log-probabilities"):
        levels.choose(user("x"), ["A", "B"])
    with pytest.raises(LlmError, match="no scripted reply fits ''"):
        llm.chat(user(""))
    with pytest.raises(ConfigError, match=r"'\(' is no regular expression"):
        open_llm({"name": "scripted", "replies": {"(": "x"}}, tmp_path / "c", "llm")
