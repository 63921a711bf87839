"""The tape: what was recorded comes back in the same bytes without a call, and a program that changed is refused."""

import pytest

from vqa2.agents.trace import (
    VERSION,
    Player,
    Recorder,
    StepFailed,
    Trace,
    dumps,
    read_trace,
    spending,
    write_trace,
)
from vqa2.core.errors import DataError, MediaError
from vqa2.core.llm import LlmUnavailable


def program(tape, calls):
    """Asks twice; the second fails; what comes back is changed by the program."""
    one = tape.do("tool", {"expert": "noise", "box": (1, 2)}, lambda: calls.append(1) or {"score": 0.1 + 0.2})
    one["score"] += 1
    try:
        tape.do("tool", {"expert": "blur"}, _fails)
    except StepFailed as err:
        return one["score"], err.reason
    raise AssertionError


def _fails():
    raise MediaError("a.mp4", "corrupt")


def trace_of(steps, **changes):
    values = {
        "version": VERSION, "program": "router", "config": {}, "query": {}, "steps": tuple(steps), "notes": (),
        "working": {}, "result": {}, "spending": spending(list(steps)),
    }  # fmt: skip
    return Trace(**{**values, **changes})


def test_a_replay_gives_the_same_bytes_without_a_call(tmp_path):
    live, calls = Recorder(), []
    first = program(live, calls)
    write_trace(tmp_path / "t.json", trace_of(live.steps))
    stored = read_trace(tmp_path / "t.json")
    again = Player(stored.steps)
    assert program(again, calls) == first
    assert calls == [1]
    assert dumps(trace_of(again.steps)) == (tmp_path / "t.json").read_text()
    assert stored.steps[0].reply == {"score": 0.1 + 0.2}
    assert stored.steps[1].error == "a.mp4: corrupt"


def test_a_program_that_asks_otherwise_is_refused():
    live = Recorder()
    program(live, [])
    with pytest.raises(DataError, match="step 0 recorded tool, this version asks for another tool"):
        Player(tuple(live.steps)).do("tool", {"expert": "other"}, dict)
    with pytest.raises(DataError, match="step 0 .tool. was never recorded"):
        Player(()).do("tool", {}, dict)


def test_a_model_that_answers_nothing_stops_the_run():
    def call():
        raise LlmUnavailable("llm: 401")

    tape = Recorder()
    with pytest.raises(LlmUnavailable):
        tape.do("chat", {"messages": []}, call)
    assert tape.steps == []


def test_spending_counts_calls_tokens_and_money():
    tape = Recorder()
    tape.do("chat", {"messages": ["a"]}, lambda: {"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "cost": 0.5})
    tape.do("options", {"messages": ["a"]}, lambda: {"usage": {"prompt_tokens": 1}, "cost": 0.25})
    tape.do("levels", {"path": "a"}, lambda: {"levels": [0.2] * 5})
    tape.do("tool", {"expert": "noise"}, lambda: {})
    made = spending(tape.steps)
    keys = ("experts", "llm_calls", "model_calls", "prompt_tokens", "completion_tokens", "cost")
    assert [made[k] for k in keys] == [1, 2, 1, 4, 2, 0.75]
    tape.do("chat", {"messages": ["b"]}, lambda: {"cost": None})
    assert spending(tape.steps)["cost"] is None


def test_other_files_and_versions_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such trace"):
        read_trace(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match=r"x.json: \w+"):
        read_trace(tmp_path / "x.json")
    write_trace(tmp_path / "y.json", trace_of([], version=99))
    with pytest.raises(DataError, match="trace version 99, this program reads 4"):
        read_trace(tmp_path / "y.json")
