"""Depictions -> question-answer rows: by word lists, and by a language model behind a real, unreliable HTTP server."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from llm_server import Act, prompt_of, serving
from rich.console import Console

from data_prep._dealer import Dealer
from data_prep._depictions import read_depictions
from data_prep._lexicon import Lexicon
from data_prep._pairs import options_refusal
from data_prep.extend import ExtendRun, extend
from vqa2.core.config import decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Depiction, Instruction, read_jsonl, write_jsonl
from vqa2.launch import composed

ROOT = Path(__file__).parents[2]
SOON = {"retry-after-ms": "10"}
TEXTS = [
    ("The video is slightly blurry. The camera shakes severely at the beginning.", ("A face is overexposed.",), 35.0),
    ("Sharp and stable. There is no noise, but the colors are dull.", (), 71.0),
    ("The picture stutters throughout the video. Strong block effects.", ("Heavy flickering at the end.",), 12.5),
    ("A pleasant clip of a cat.", (), None),
]  # fmt: skip


def depictions(count: int) -> list[Depiction]:
    made = []
    for number in range(count):
        overall, context, mos = TEXTS[number % len(TEXTS)]
        made.append(
            Depiction(id=f"d{number:03d}", clip_id=f"c{number}", media=f"LSVQ/{number}.mp4", kind="video",
                      overall=overall, in_context=context, mos=mos, tags={"split": "train"})
        )  # fmt: skip
    return made


@pytest.fixture
def run_of(tmp_path):
    """`run_of(count, *overrides)`: the configuration for `count` depictions, written to tmp_path."""

    def make(count: int, *overrides: str) -> ExtendRun:
        source = tmp_path / "depictions.jsonl"
        write_jsonl(source, depictions(count))
        values = composed("extend", [f"depictions={source}", f"out={tmp_path / 'out'}", *overrides])
        return decode(ExtendRun, values, "extend")

    return make


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return decode(ExtendRun, composed("extend", ["depictions=x"]), "extend").lexicon


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Slight motion blur at the end.", [("motion blur", True, "slight", "at the end")]),
        ("Heavy noise, slight blur and it flickers moderately.",
         [("noise", True, "severe", ""), ("spatial blur", True, "slight", ""), ("flicker", True, "moderate", "")]),
        ("It is not sharp.", [("spatial blur", True, "", "")]),
        ("There is no obvious noise or grain.", [("noise", False, "", "")]),
        ("Clear at first, but very blurry in the middle.", [("spatial blur", True, "severe", "in the middle")]),
        ("Stable camera and smooth playback.", [("camera shake", False, "", ""), ("stuttering", False, "", "")]),
        ("Not smooth.", [("stuttering", True, "", "")]),
        ("The scene is without any flicker. It is noisy.", [("flicker", False, "", ""), ("noise", True, "", "")]),
        ("Good lighting.", [("overexposure", False, "", ""), ("underexposure", False, "", "")]),
        ("A dog runs over the meadow.", []),
        ("A blurb about sharpening, a stablemate", []),
    ],
)  # fmt: skip
def test_the_lexicon_reads_attribute_polarity_severity_and_time(lexicon, text, found):
    assert [(f.attribute, f.present, f.severity, f.when) for f in lexicon.read(text)] == found


def test_rules_ask_only_what_the_text_says_and_deal_letters_evenly(run_of, tmp_path):
    run = run_of(80)
    manifest = extend(run, quiet())
    rows = read_jsonl(tmp_path / "out" / "extended.jsonl", Instruction)
    assert manifest["rows"] == len(rows)
    assert manifest["kinds"] == dict(Counter(r.tags["question_type"] for r in rows))
    assert set(manifest["kinds"]) == {"binary", "choice", "open", "temporal", "causal", "conversation"}
    assert manifest["refused"] == {}
    expected, gap = manifest["expected"], manifest["not written"]
    assert all(expected[k] == manifest["kinds"][k] + gap.get(k, 0) for k in expected)
    # The fourth depiction has no rating: no causal row, no level.
    assert gap["causal"] == 20
    by_id = {r.id: r for r in rows}
    causal = by_id["d000-causal-1"].turns[0].assistant
    assert causal == f"{TEXTS[0][0]} Hence, the quality of this video is poor."
    truth = {0: {"spatial blur", "camera shake", "overexposure"}, 1: {"desaturation"},
             2: {"stuttering", "block effect", "flicker"}, 3: set()}  # fmt: skip
    for row in (r for r in rows if r.tags["question_type"] == "binary"):
        asked = row.turns[0].user.split("Is there ")[1].split(" in this video")[0]
        said = row.turns[0].assistant.split(". ")[1]
        assert (said == "Yes") == (asked in truth[int(row.id[1:4]) % 4]), row
    yes, no = (manifest["binary answers"][a] for a in ("Yes", "No"))
    # Three of four depictions name something: those give one of each.
    assert (yes, no) == (60, 100)
    for options in (2, 4):
        letters = [manifest["right answers at"][f"{options} options, {letter}"] for letter in "ABCD"[:options]]
        assert max(letters) - min(letters) <= 2, "binary, choice and temporal are dealt apart"
    talk = by_id["d000-conversation-1"].turns
    assert talk[0].user.startswith("<video>\n")
    assert all("<video>" not in t.user for t in talk[1:])
    assert [t.assistant for t in talk[1:]] == [
        "Spatial blur.", "It is slight.", "A face is overexposed.", "The quality of this video is poor."
    ]  # fmt: skip


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(run_of, tmp_path):
    def digest(*overrides):
        extend(run_of(12, *overrides), quiet())
        return hashlib.sha256((tmp_path / "out" / "extended.jsonl").read_bytes()).hexdigest()

    assert digest() == digest()
    assert digest() != digest("seed=1")
    assert not list((tmp_path / "out").glob("*.part"))


def test_dealing_uses_every_place_once_in_a_run():
    dealer = Dealer(0, "x")
    dealt = [dealer.deal("choice", ("right", "w1", "w2", "w3")) for _ in range(40)]
    places = [place for _, place in dealt]
    assert all(sorted(places[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 40, 4))
    assert len({tuple(places[i : i + 4]) for i in range(0, 40, 4)}) > 3
    assert all(options[place] == "right" and len(set(options)) == 4 for options, place in dealt)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("Blur", "Noise", "blur."), "the distractor 'blur.' is the answer"),
        (("The blur", "a blur"), "is the answer"),
        (("Noise", "Shake", "shake!"), "two distractors are the same"),
        (("Slight blur", "blur"), "contain each other"),
        (("Noise", "None of the above"), "speaks of the other options"),
        (("It is noisy", "There is noise"), "means the answer"),
        (("Slight noise", "Heavy noise"), ""),
        (("Noise", "Blur"), ""),
        (("Noise",), "0 distractors, 1 to 7 are needed"),
        (("Noise", " ! "), "an empty distractor"),
    ],
)
def test_distractors_are_checked_against_the_answer(lexicon, options, reason):
    limits = decode(ExtendRun, composed("extend", ["depictions=x"]), "extend").limits
    made = options_refusal(options, limits, lexicon)
    assert reason in made if reason else made == ""


def good(**changes) -> str:
    reply = {
        "binary": [{"question": "Is it blurry?", "answer": "Yes"}, {"question": "Is it noisy?", "answer": "No"}],
        "choice": [{"question": "What is worst?", "answer": "Blur", "distractors": ["Noise", "Banding", "Flicker"]},
                   {"question": "How dark is it?", "answer": "Very", "distractors": ["Barely", "Somewhat", "Not"]}],
        "open": [{"question": "Why is it bad?", "answer": "It is blurry."}],
        "temporal": [{"question": "When does it shake?", "answer": "At first", "distractors": ["Late", "Always"]}],
        "conversation": [{"question": "How is it?", "answer": "Blurry."}, {"question": "Why?", "answer": "Bad focus."}],
    }  # fmt: skip
    return json.dumps({**reply, **changes})


@pytest.fixture
def endpoint(monkeypatch):
    """Points the environment at a server."""

    def point(server):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")

    return point


HTTP = ("llm=http", "llm.retries=2", "llm.timeout_s=0.5", "llm.concurrency=4", "llm.repairs=1")


def number_of(request: dict) -> str:
    """Which depiction a request is about: the tests hide its number in the text."""
    return next(m["content"] for m in request["messages"] if m["role"] == "user").split("Overall: ")[1].split()[0]


def numbered(run: ExtendRun, count: int) -> ExtendRun:
    made = [Depiction(**{**vars(d), "overall": f"{i} {d.overall}"}) for i, d in enumerate(depictions(count))]
    write_jsonl(Path(run.depictions), made)
    return run


def test_a_model_behind_an_unreliable_server_gives_the_rows_of_a_reliable_one(run_of, endpoint, tmp_path):
    def unreliable(request, n):
        number = int(number_of(request))
        trouble = {1: Act(status=500, body="{}", headers=SOON), 3: Act(status=429, body="{}", headers=SOON),
                   5: Act(good(), delay_s=0.8), 7: Act(body='{"choices": [')}  # fmt: skip
        if n == 1 and number in trouble:
            return trouble[number]
        if number == 8 and len(request["messages"]) == 2:
            return Act("Sure! Here is the JSON: " + good())
        return Act(good())

    outputs = []
    for behave in (lambda request, n: Act(good()), unreliable):
        with serving(behave) as server:
            endpoint(server)
            run = numbered(run_of(10, *HTTP, f"cache={tmp_path / str(len(outputs))}.sqlite"), 10)
            manifest = extend(run, quiet())
            outputs.append((tmp_path / "out" / "extended.jsonl").read_bytes())
    assert outputs[0] == outputs[1]
    assert manifest["refused"] == {"not the schema": 1}
    assert manifest["kinds"]["choice"] == 20
    assert manifest["tokens"]["prompt"] == 10 * 11
    refused = [json.loads(x) for x in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert refused[0]["depiction"] == "d008"
    assert refused[0]["what"].startswith("Sure!")


def test_refused_pairs_are_kept_with_reasons_and_the_rest_of_the_reply_is_used(run_of, endpoint, tmp_path):
    bad = good(
        choice=[
            {"question": "What is worst?", "answer": "Blur", "distractors": ["blur", "Noise", "Banding"]},
            {"question": "What else?", "answer": "Noise", "distractors": ["Blur", "Shake", "Banding"]},
            {"question": "what ELSE", "answer": "Noise", "distractors": ["Blur", "Shake", "Banding"]},
        ],
        open=[{"question": "What does the description say?", "answer": "Blur."}],
        temporal=[{"question": "What color is it?", "answer": "Red", "distractors": ["Blue", "Green", "Gray"]}],
        conversation=[{"question": "How is it?", "answer": "Bad."}],
        binary=[{"question": f"Is it {x}?", "answer": "Yes"} for x in ("a", "b", "c")],
    )
    with serving(lambda request, n: Act(bad)) as server:
        endpoint(server)
        manifest = extend(run_of(1, *HTTP), quiet())
    assert manifest["kinds"] == {"binary": 2, "choice": 1, "causal": 1}
    assert manifest["not written"] == {"choice": 1, "open": 1, "temporal": 1, "conversation": 1}
    reasons = [json.loads(x)["reason"] for x in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert reasons == [
        "more than the 2 asked for",
        "the distractor 'blur' is the answer",
        "the question was asked already",
        "speaks of a text that the model does not see: 'descriptions? (?:says?|mentions?|states?)'",
        "a temporal question that does not speak of time",
        "a conversation of 1 turns, 2 are needed",
    ]


def test_what_has_no_answer_is_listed_and_asked_alone_next_time(run_of, endpoint, tmp_path):
    sick = {"4"}

    def behave(request, n):
        return Act(status=400, body="{}") if number_of(request) in sick else Act(good())

    with serving(behave) as server:
        endpoint(server)
        run = numbered(run_of(8, *HTTP), 8)
        with pytest.raises(DataError, match=r"1 of 8 depictions have no answer .failed.jsonl lists them"):
            extend(run, quiet())
        assert not (tmp_path / "out" / "extended.jsonl").exists()
        assert json.loads((tmp_path / "out" / "failed.jsonl").read_text())["depiction"] == "d004"
        asked = len(server.requests)
        assert extend(numbered(run_of(8, *HTTP, "tolerate=1"), 8), quiet())["failed"] == 1
        sick.clear()
        assert extend(run, quiet())["failed"] == 0
    assert len(server.requests) == asked + 2
    assert not (tmp_path / "out" / "failed.jsonl").read_text()


def test_a_run_that_may_cost_too_much_asks_nothing(run_of, endpoint):
    with serving(lambda request, n: Act(good())) as server:
        endpoint(server)
        prices = ("llm.price_prompt=1", "llm.price_completion=1000", "max_cost=0.5")
        shown = quiet()
        with pytest.raises(ConfigError, match=r"max_cost: 0.50, but the run may cost 3.00"):
            extend(run_of(2, *HTTP, *prices), shown)
        assert "2 requests, 0 answered already" in shown.file.getvalue()
        with pytest.raises(ConfigError, match="may cost unknown"):
            extend(run_of(2, *HTTP, "max_cost=0.5"), quiet())
    assert not server.requests


def test_killed_in_the_middle_the_command_finishes_with_the_bytes_of_a_straight_run(run_of, endpoint, tmp_path):
    run = numbered(run_of(16, *HTTP), 16)
    with serving(lambda request, n: Act(good(), delay_s=0.1)) as server:
        env = {**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-test"}
        command = [sys.executable, "-m", "data_prep", "extend", f"depictions={run.depictions}", f"out={run.out}",
                   "llm=http", "llm.concurrency=2"]  # fmt: skip
        process = subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.requests) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (Path(run.out) / "extended.jsonl").exists()
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
        # At most the two in flight when it was killed are asked a second time.
        assert 16 <= len(server.requests) <= 18
        assert "16 requests" in done.stderr
        first = (Path(run.out) / "extended.jsonl").read_bytes()
        endpoint(server)
        extend(numbered(run_of(16, "llm=http", f"cache={tmp_path / 'fresh.sqlite'}"), 16), quiet())
    assert (Path(run.out) / "extended.jsonl").read_bytes() == first
    assert max(Counter(map(prompt_of, server.requests)).values()) <= 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", "holds no depictions"),
        (b'{"id": "a"}\n', ":1: clip_id: field required"),
        (b"not json\n", ":1: row: invalid json"),
        ('{"id": "a", "overall": "\xe9"}\n'.encode("latin-1"), ":1: not UTF-8 .byte"),
    ],
)
def test_a_bad_depiction_is_named_with_file_and_line(tmp_path, lines, message):
    path = tmp_path / "d.jsonl"
    path.write_bytes(lines)
    with pytest.raises(DataError, match=message):
        list(read_depictions(path))


def test_doubled_ids_empty_texts_and_mos_off_the_scale_are_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    one = depictions(1)[0]
    for changes, message in (
        ({}, "2: id 'd000' is that of line 1"),
        ({"id": "x", "overall": " "}, "2: overall: empty"),
        ({"id": "x", "mos": 101.0}, "2: mos: 101.0 is not on 0-100"),
    ):
        write_jsonl(path, [one, Depiction(**{**vars(one), **changes})])
        with pytest.raises(DataError, match=message):
            list(read_depictions(path))
