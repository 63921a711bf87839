"""AgenticIQA's table: in the standard form about 1-5, as printed not, and its bad rows are named and refused."""

import numpy as np
import pytest

from vqa2.core.errors import ConfigError
from vqa2.experts.calibration import curve
from vqa2.experts.published import published, table

TURN_BACK = {"CKDN", "UNIQUE", "TReS", "WaDIQaM_NR", "ARNIQA", "BRISQUE"}


def spread(row, form) -> tuple[float, float]:
    y = curve(form, row.parameters, np.linspace(*row.raw_range, 512))
    return float(y.min()), float(y.max())


def test_the_standard_form_lands_on_the_scale_and_the_printed_one_does_not():
    rows = table().values()
    assert len(rows) == 24
    near = [r.tool for r in rows if spread(r, "logistic5")[0] > -1 and spread(r, "logistic5")[1] < 6]
    printed = [r.tool for r in rows if spread(r, "logistic5_printed")[0] > -1 and spread(r, "logistic5_printed")[1] < 6]
    assert set(table()) - set(near) == {"WaDIQaM_FR", "WaDIQaM_NR"}
    assert len(printed) <= 12


def test_bad_rows_are_named_and_refused():
    assert {t for t, row in table().items() if "not monotone" in row.anomalies} == TURN_BACK
    assert "same parameters as TopIQ_FR" in published("CLIPIQA").anomalies
    assert any("never above 3.4" in a for a in published("NIQE").anomalies)
    assert any("leaves 1-5" in a for a in published("WaDIQaM_FR").anomalies)
    with pytest.raises(ConfigError, match="CKDN: the published parameters are not monotone"):
        published("CKDN").acr(0.5, "logistic5")
    with pytest.raises(ConfigError, match="did you mean 'MUSIQ'"):
        published("MUSIC")


def test_the_papers_example_range():
    assert published("QAlign").acr(1.0, "logistic5") == pytest.approx(1.35, abs=0.01)
    assert published("QAlign").acr(5.0, "logistic5") == pytest.approx(4.57, abs=0.01)
    assert published("QAlign").acr(3.0, "logistic5_printed") == 1.0
