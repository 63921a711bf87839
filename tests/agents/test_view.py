"""The page of a trace, of every way a trace comes about."""

import pytest
from agent_test_parts import Finding, Spoken, Trusting, told

from vqa2.agents.trace import read_trace
from vqa2.agents.view import write_page
from vqa2.core.errors import ConfigError
from vqa2.core.prompts import open_prompt


@pytest.fixture
def page_of(tmp_path):
    def page(trace) -> str:
        write_page(tmp_path / "p.html", trace)
        return (tmp_path / "p.html").read_text()

    return page


def test_a_page_shows_plan_evidence_claims_and_escapes(clip, pool_of, agent_of, tmp_path, page_of):
    pool = pool_of(noise=told(20.0, strengths=["noise"], license="BSD-2-Clause"), broken=told(fails="<script>"))
    agent = agent_of(pool, voice=Spoken(words="<b>bad</b>"))
    trace = agent.ask(clip, question=open_prompt("Use broken on the sky."), want="answer")
    page = page_of(trace)
    assert "&lt;b&gt;bad" in page
    assert "<script>" not in page
    assert "failure:sky" in page
    assert "<td>sky</td>" in page
    assert "<td>distortion detection, distortion analysis, tool execute</td>" in page
    assert read_trace(tmp_path / "trace.json") == trace
    rated = page_of(agent_of(pool_of(noise=told(20.0, license="BSD-2-Clause"))).ask(clip))
    assert '<td class="muted">BSD-2-Clause</td>' in rated


def test_a_page_shows_terms_license_and_localized_artifacts(clip, pool_of, router_of, page_of):
    finding = {"kind": "noise", "kind_p": 0.75, "start_s": 0.25, "end_s": 0.5, "severity": 0.125,
               "boxes": [[1, 2, 3, 4]], "note": ""}  # fmt: skip
    found = {"types": ["noise"], "findings": [finding]}
    pool = pool_of(a=told(60.0, license="BSD-2-Clause"))
    page = page_of(router_of(pool, None, "tier=2", localizer=Finding(found)).ask(clip, prompt="a cat"))
    assert "agreement</th>" in page
    assert "BSD-2-Clause" in page
    assert "prompt: a cat" in page
    assert "[1, 2, 3, 4]" in page
    assert '<td class="num">0.25 s</td>' in page
    none = page_of(router_of(pool, None, "tier=2", localizer=Finding({**found, "findings": []})).ask(clip))
    assert '<td colspan="6">none</td>' in none


def test_a_page_of_a_gate_has_no_terms_and_names_its_error(clip, pool_of, router_of, page_of):
    pool = pool_of(a=told(20.0), b=told(80.0))
    page = page_of(router_of(pool, gate=Trusting({"a": 0.25, "b": 0.75})).ask(clip))
    assert "agreement</th>" not in page
    assert '<td class="num">0.750</td>' in page
    assert "expected error 7.5" in page


def test_a_page_of_an_error_and_one_that_cannot_be_written(clip, pool_of, router_of, tmp_path, page_of):
    trace = router_of(pool_of(a=told(fails="boom"))).ask(clip)
    assert "no answer" in page_of(trace)
    with pytest.raises(ConfigError, match=r"p\.html"):
        write_page(tmp_path / "p.html" / "q.html", trace)
