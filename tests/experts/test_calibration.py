"""Calibration: known parameters are recovered, the forms differ as written, not monotone or stale is refused."""

import json

import numpy as np
import pytest

from vqa2.core.errors import ConfigError, DataError
from vqa2.experts import calibration
from vqa2.experts.calibration import Material, Subject, curve, fit, load, logistic4, logistic5, logistic5_printed, save

SUBJECT = Subject(expert="e", identity="v1", higher_is_better=True)


def material(x, y) -> Material:
    return Material(
        dataset="made", ids=tuple(map(str, range(len(x)))), raw=tuple(map(float, x)), mos=tuple(map(float, y))
    )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("higher", [True, False])
def test_logistic5_recovers_the_curve_that_made_the_data(scale, higher):
    sign = 1 if higher else -1
    x = np.linspace(-1, 1, 200) * scale
    y = logistic5(x, 60.0, sign * 5.0 / scale, 0.1 * scale, sign * 8.0 / scale, 50.0)
    made = fit(Subject(expert="e", identity="v", higher_is_better=higher), "logistic5", material(x, y))
    # (b1, b2) and (-b1, -b2) are the same curve: values are compared, then the parameters up to that sign.
    np.testing.assert_allclose(made.curve(x), y, atol=1e-5)
    b1, b2, b3, b4, b5 = made.parameters
    np.testing.assert_allclose([b1 * np.sign(b2) * sign, abs(b2) * scale, b3 / scale, b4 * scale * sign, b5],
                               [60.0, 5.0, 0.1, 8.0, 50.0], rtol=1e-3)  # fmt: skip


def test_logistic4_linear_and_isotonic_recover_theirs():
    x = np.linspace(0, 10, 100)
    made = fit(SUBJECT, "logistic4", material(x, logistic4(x, 90.0, 10.0, 4.0, 0.7)))
    np.testing.assert_allclose(made.parameters, [90.0, 10.0, 4.0, 0.7], rtol=1e-5)
    np.testing.assert_allclose(fit(SUBJECT, "linear", material(x, 3 * x + 2)).parameters, [3, 2], rtol=1e-9)
    made = fit(SUBJECT, "isotonic", material(x, np.where(x < 5, 20.0, 80.0)))
    assert made(2) == pytest.approx(20)
    assert made(9) == pytest.approx(80)


def test_the_printed_form_is_not_the_standard_one_and_cannot_be_fitted():
    qalign = (28.8204, 0.1469, 6.1941, -0.1906, 6.7863)
    ends = np.array([1.0, 5.0])
    np.testing.assert_allclose(logistic5(ends, *qalign), [1.35, 4.57], atol=0.01)
    assert logistic5_printed(ends, *qalign).max() < -10
    with pytest.raises(AssertionError):
        fit(SUBJECT, "logistic5_printed", material(range(10), range(10)))


def test_a_score_outside_the_fitted_range_keeps_the_end_and_says_how_far_it_is():
    made = fit(SUBJECT, "linear", material(range(0, 11), range(20, 75, 5)))
    assert made(30) == made(10) == pytest.approx(70)
    assert made.outside(15) == pytest.approx(0.5)
    assert made.outside(5) == 0


def test_a_curve_against_the_declared_direction_is_refused():
    x = np.linspace(0, 1, 30)
    for form in ("linear", "logistic4", "logistic5"):
        with pytest.raises(DataError, match="not monotone in the declared direction"):
            fit(SUBJECT, form, material(x, 100 - 80 * x))
    with pytest.raises(DataError, match="8 finite, varying"):
        fit(SUBJECT, "linear", material([1.0] * 20, range(20)))


def test_a_file_is_refused_when_missing_stale_malformed_or_not_monotone(tmp_path):
    with pytest.raises(ConfigError, match="no calibration of e"):
        load(tmp_path, "e", "v1")
    made = fit(SUBJECT, "logistic5", material(np.linspace(0, 1, 50), np.linspace(0, 100, 50)))
    path = save(made, tmp_path)
    assert load(tmp_path, "e", "v1") == made
    with pytest.raises(ConfigError, match="stale"):
        load(tmp_path, "e", "v2")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "form": "linear", "parameters": [-1.0, 5.0]}))
    with pytest.raises(ConfigError, match="not monotone"):
        load(tmp_path, "e", "v1")
    path.write_text(json.dumps({k: v for k, v in values.items() if k != "dataset"}))
    with pytest.raises(ConfigError, match="dataset"):
        load(tmp_path, "e", "v1")


def test_isotonic_is_flat_between_equal_knots():
    assert curve("isotonic", (0.0, 10.0, 1.0, 20.0), np.array([0.5]))[0] == 15
    assert calibration.monotone("isotonic", (0.0, 10.0, 1.0, 10.0, 2.0, 20.0), (0.0, 2.0), increasing=True)
