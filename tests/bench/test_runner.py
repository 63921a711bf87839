"""The runner asks once, keeps what it has, survives a kill with equal numbers, and counts failures."""

import hashlib
import json
import threading
from dataclasses import replace

import pytest

from vqa2.bench._answers import ANSWERS, read_answers
from vqa2.bench._origin import embedded, origin_line
from vqa2.bench._runner import Shard, read_report, run
from vqa2.bench.scoring import Scoring
from vqa2.core.errors import DataError
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.core.records import Answer

MOS = [12.0, 30.0, 45.0, 61.0, 70.0, 88.0, 93.0]
SCORES = {f"c{n}": s for n, s in enumerate([0.2, 0.1, 0.5, 0.6, 0.8, 0.7, 0.9])}


@pytest.fixture
def scoring(write_set, make_row):
    root = write_set("s.jsonl", [make_row(n, SCORE_QUESTION, mos=m, mos_rule="mos") for n, m in enumerate(MOS)])
    return lambda **kw: Scoring(
        **{
            "label": "s",
            "root": str(root),
            "prepare": None,
            "file": "s.jsonl",
            "where": {},
            "without": (),
            "groups": (),
            "published_n": None,
            "sources": (),
            "batch_size": 2,
            "bootstrap": 20,
            "seed": 0,
        }
        | kw
    )


def test_a_second_run_asks_nothing_and_reports_the_same(scoring, scripted, quiet, tmp_path):
    first = run(scoring(), scripted(SCORES), tmp_path / "o", quiet)
    again = scripted(SCORES)
    assert run(scoring(), again, tmp_path / "o", quiet) == first
    assert again.asked == []
    assert read_report(tmp_path / "o" / "report.json") == first


def test_an_interrupted_run_loses_one_batch_and_ends_with_equal_numbers(scoring, scripted, quiet, tmp_path):
    whole = run(scoring(), scripted(SCORES), tmp_path / "whole", quiet)
    with pytest.raises(KeyboardInterrupt):
        run(scoring(), scripted(SCORES, stop_after=2), tmp_path / "cut", quiet)
    assert list(read_answers(tmp_path / "cut" / ANSWERS)) == ["c0", "c1", "c2", "c3"]
    rest = scripted(SCORES)
    assert run(scoring(), rest, tmp_path / "cut", quiet) == whole
    assert rest.asked == ["c4", "c5", "c6"]


def test_a_line_cut_short_by_a_kill_is_asked_again(scoring, scripted, quiet, tmp_path):
    whole = run(scoring(), scripted(SCORES), tmp_path, quiet)
    path = tmp_path / ANSWERS
    path.write_text(path.read_text()[:-30])
    rest = scripted(SCORES)
    assert run(scoring(), rest, tmp_path, quiet) == whole
    assert rest.asked == ["c6"]


def test_a_damaged_line_elsewhere_is_an_error_with_its_place(scoring, scripted, quiet, tmp_path):
    run(scoring(), scripted(SCORES), tmp_path, quiet)
    path = tmp_path / ANSWERS
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:9]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"answers\.jsonl:3: not a line of JSON"):
        run(scoring(), scripted(SCORES), tmp_path, quiet)


def test_one_failing_item_shows_in_coverage_and_is_asked_again(scoring, scripted, quiet, tmp_path):
    report = run(scoring(), scripted(SCORES, broken=["c3"]), tmp_path, quiet)
    assert (report.n_expected, report.n_scored, report.n_failed) == (7, 6, 1)
    assert report.failures == (("c3", "cannot decode"),)
    assert {m.n for m in report.metrics} == {6}
    mended = scripted(SCORES)
    assert run(scoring(), mended, tmp_path, quiet).n_scored == 7
    assert mended.asked == ["c3"]


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_an_impossible_score_is_a_failure(scoring, scripted, quiet, tmp_path, value):
    report = run(scoring(), scripted({**SCORES, "c1": value}), tmp_path, quiet)
    assert report.n_scored == 6
    assert report.failures[0][0] == "c1"
    assert "is not in [0, 1]" in report.failures[0][1]


def test_another_predictor_or_batch_size_sets_the_old_file_aside(scoring, scripted, quiet, tmp_path):
    run(scoring(), scripted(SCORES), tmp_path, quiet)
    other = scripted(SCORES)
    other.fingerprint = "v2"
    run(scoring(), other, tmp_path, quiet)
    assert len(other.asked) == 7
    changed = scripted(SCORES)
    changed.fingerprint = "v2"
    run(scoring(batch_size=3), changed, tmp_path, quiet)
    assert len(changed.asked) == 7
    assert len(list(tmp_path.glob("*.stale"))) == 2


def test_another_way_to_grade_asks_nothing(scoring, scripted, quiet, tmp_path):
    run(scoring(), scripted(SCORES), tmp_path, quiet)
    again = scripted(SCORES)
    run(scoring(bootstrap=21, seed=1), again, tmp_path, quiet)
    assert again.asked == []


def test_a_changed_clip_is_asked_again_and_only_that(scoring, scripted, quiet, tmp_path):
    benchmark = scoring()
    clip = benchmark.items()[4].query.path
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"one")
    run(benchmark, scripted(SCORES), tmp_path / "o", quiet)
    clip.write_bytes(b"another")
    again = scripted(SCORES)
    run(benchmark, again, tmp_path / "o", quiet)
    assert again.asked == ["c4"]


def test_progress_starts_at_what_is_known(scoring, scripted, tmp_path):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        run(scoring(), scripted(SCORES, stop_after=1), tmp_path, lambda done, total: seen.append((done, total)))
    run(scoring(), scripted(SCORES), tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(0, 7), (2, 7), (2, 7), (4, 7), (6, 7), (7, 7)]


def test_a_predictor_out_of_order_is_refused(scoring, scripted, quiet, tmp_path):
    class Reversed(scripted):
        def score(self, queries):
            return super().score(queries)[::-1]

    with pytest.raises(AssertionError, match="one answer per query, in order"):
        run(scoring(), Reversed(SCORES), tmp_path, quiet)


def test_an_id_twice_is_an_error(scripted, quiet, tmp_path, write_set, make_row):
    root = write_set("s.jsonl", [make_row(1, SCORE_QUESTION, mos=5.0), make_row(1, SCORE_QUESTION, mos=6.0)])
    twice = Scoring(label="s", root=str(root), prepare=None, file="s.jsonl", where={}, without=(), groups=(),
                    published_n=None, sources=(), batch_size=2, bootstrap=0, seed=0)  # fmt: skip
    with pytest.raises(DataError, match="c1 occurs twice"):
        run(twice, scripted(SCORES), tmp_path, quiet)


def test_the_answers_file_says_what_it_belongs_to(scoring, scripted, quiet, tmp_path):
    run(scoring(), scripted(SCORES, broken=["c0"]), tmp_path, quiet)
    header = json.loads((tmp_path / ANSWERS).read_text().splitlines()[0])
    assert (header["benchmark"], header["predictor"]) == ("s", "scripted")
    assert read_answers(tmp_path / ANSWERS)["c0"] == Answer(id="c0", error="cannot decode")


def shared(scoring, predictors, folder):
    """A run shared by as many threads as there are predictors; the first one's report."""
    barrier, reports = threading.Barrier(len(predictors), timeout=60), [None] * len(predictors)

    def one(rank):
        try:
            shard = Shard(rank, len(predictors), barrier.wait)
            reports[rank] = run(scoring(), predictors[rank], folder, lambda done, total: None, shard)
        except KeyboardInterrupt:
            barrier.abort()
        except threading.BrokenBarrierError:
            pass

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(predictors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reports


def numbers(report):
    """A report without the story of how it was made."""
    return replace(report, provenance={})


def test_processes_share_the_items_and_one_reports(scoring, scripted, quiet, tmp_path):
    alone = run(scoring(), scripted(SCORES), tmp_path / "alone", quiet)
    both = [scripted(SCORES), scripted(SCORES)]
    first, second = shared(scoring, both, tmp_path / "shared")
    assert second is None
    assert numbers(first) == numbers(alone)
    assert [p.asked for p in both] == [["c0", "c1", "c4", "c5"], ["c2", "c3", "c6"]]
    assert [p.name for p in (tmp_path / "shared").glob("answers*")] == [ANSWERS]
    assert [s["processes"] for s in first.provenance["sessions"]] == [2]


def test_a_shared_run_that_was_killed_goes_on_with_another_number_of_processes(scoring, scripted, quiet, tmp_path):
    alone = run(scoring(), scripted(SCORES), tmp_path / "alone", quiet)
    broken = [scripted(SCORES, broken=["c0"]), scripted(SCORES, stop_after=1)]
    assert shared(scoring, broken, tmp_path / "cut") == [None, None]
    known = {i for p in broken for i in p.asked} - {"c0"}
    rest = [scripted(SCORES), scripted(SCORES), scripted(SCORES)]
    report = shared(scoring, rest, tmp_path / "cut")[0]
    assert numbers(report) == numbers(alone)
    assert sorted(i for p in rest for i in p.asked) == sorted(set(SCORES) - known)
    assert [s["processes"] for s in report.provenance["sessions"]] == [2, 3]


def test_neighbors_in_length_share_a_batch_the_longest_first(scoring, scripted, quiet, tmp_path):
    class Planning(scripted):
        lengths = {"c0": 5, "c1": 9, "c2": 5, "c3": 1, "c4": 9, "c5": 2, "c6": 7}

        planned = None

        def plan(self, queries):
            assert bool(self.planned) == (not queries)  # told once what comes, and at the end that nothing does
            self.planned = self.planned or [q.id for q in queries]

        def length(self, query):
            return self.lengths[query.id]

    in_order = run(scoring(), scripted(SCORES), tmp_path / "a", quiet)
    whole = Planning(SCORES)
    report = run(scoring(), whole, tmp_path / "b", quiet)
    assert whole.asked == whole.planned == ["c1", "c4", "c6", "c0", "c2", "c5", "c3"]
    assert numbers(report) == numbers(in_order)
    with pytest.raises(KeyboardInterrupt):
        run(scoring(), Planning(SCORES, stop_after=2), tmp_path / "c", quiet)
    rest = Planning(SCORES)
    run(scoring(), rest, tmp_path / "c", quiet)
    assert rest.asked == rest.planned == ["c2", "c5", "c3"]


def test_result_files_carry_what_they_come_from(scoring, scripted, quiet, tmp_path):
    class Model(scripted):
        provenance = {"checkpoint": "abc"}

    first = run(scoring(), Model(SCORES), tmp_path, quiet).provenance
    (path,) = scoring().inputs()
    assert first["files"] == {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
    assert first["config"]["batch_size"] == 2
    (session,) = first["sessions"]
    assert session["predictor"] == {"name": "scripted", "fingerprint": "v1", "checkpoint": "abc"}
    assert session["environment"]["versions"]["numpy"]
    header = json.loads((tmp_path / ANSWERS).read_text().splitlines()[0])
    assert header["sessions"] == first["sessions"]
    assert {k: header[k] for k in ("items", "files", "manifests", "config")} == {
        k: first[k] for k in ("items", "files", "manifests", "config")
    }
    assert first["manifests"] == {}
    path.write_text(path.read_text().replace('"mos": 12.0', '"mos": 12.5'))
    again = run(scoring(), Model(SCORES), tmp_path, quiet).provenance
    assert again["items"] == first["items"]
    assert again["files"] != first["files"]
    manifest = path.with_name("s.manifest.json")
    manifest.write_text(json.dumps({"source": "synthetic", "sha256": {path.name: "x"}}))
    path.with_name("other.manifest.json").write_text(json.dumps({"sha256": {"other.jsonl": "x"}}))
    listed = run(scoring(), Model(SCORES), tmp_path, quiet)
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert listed.provenance["manifests"] == {str(manifest): {"sha256": digest, "source": "synthetic"}}
    assert embedded(listed)
    assert origin_line(listed).startswith("s: scripted, checkpoint abc")
    assert origin_line(listed).endswith(f"items {first['items'][:12]}; s.jsonl {again['files'][str(path)][:12]}")
