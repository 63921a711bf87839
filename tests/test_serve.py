"""`vqa2 serve`: the service gives the numbers of the Python call, and names what it refuses."""

import pytest
from fastapi.testclient import TestClient

from vqa2 import load
from vqa2.core.scale import LEVELS
from vqa2.serve import application


@pytest.fixture(scope="module")
def model(data_root, model_spec, tmp_path_factory):
    import torch

    from vqa2.model.build import build
    from vqa2.train.common import set_texts

    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    for part in build(model_spec, set_texts(data_root)):
        part.save_pretrained(folder)
    return load(str(folder))


@pytest.fixture(scope="module")
def client(model):
    return TestClient(application(model, model, max_mb=1, batch_size=2))


@pytest.fixture(scope="module")
def clips(data_root):
    return sorted((data_root / "media" / "test").glob("*.mp4"))[:3]


def sent(*paths):
    return [("files", (path.name, path.read_bytes())) for path in paths]


def test_scores_are_those_of_the_python_call_and_a_broken_file_has_its_reason(client, model, clips, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    made = client.post("/score", files=sent(clips[0], broken, *clips[1:])).json()
    assert made["model"] == model.identity["checkpoint"]
    assert [r["file"] for r in made["results"]] == [p.name for p in (clips[0], broken, *clips[1:])]
    assert "not a readable video" in made["results"].pop(1)["error"]
    for path, got in zip(clips, made["results"], strict=True):
        want = model.score(path)
        assert got["score_0_100"] == pytest.approx(want.score100, abs=1e-3)
        assert list(got["levels"]) == list(LEVELS)
        assert list(got["levels"].values()) == pytest.approx(list(want.levels), abs=1e-5)


def test_answers_are_those_of_the_python_call(client, model, clips):
    question = "Is the video sharp?"
    made = client.post("/ask", files={"file": (clips[0].name, clips[0].read_bytes())}, data={"question": question})
    assert made.json() == {"file": clips[0].name, "answer": model.ask(clips[0], question)}
    broken = client.post("/ask", files={"file": ("x.mp4", b"no video")}, data={"question": question})
    assert broken.status_code == 422
    assert broken.json()["error"].startswith("x.mp4: not a readable video")


def test_names_of_clients_never_become_paths(client, clips, tmp_path):
    name = f"../../{tmp_path.name}/../{clips[0].name}"
    (made,) = client.post("/score", files=[("files", (name, clips[0].read_bytes()))]).json()["results"]
    assert "error" not in made


def test_a_request_that_is_too_large_or_has_no_size_is_refused(client):
    large = client.post("/score", files=[("files", ("x.mp4", b"0" * (2**20 + 1)))])
    assert (large.status_code, large.json()["error"]) == (413, "1.0 MiB, 1 are the most (--max-mb)")
    assert client.post("/score", content=iter([b"x"])).status_code == 411


def test_the_page_and_what_answers(client, model):
    assert "Video quality" in client.get("/").text
    assert client.get("/health").json()["scorer"]["checkpoint"] == model.identity["checkpoint"]
