"""Full-reference metrics against piq 0.8.0, natural scene statistics against scikit-video 1.1.11 and brisque 0.2.0."""

import pickle

import numpy as np
import pytest
from scipy import ndimage
from skimage.data import astronaut

from vqa2.core.config import decode
from vqa2.core.errors import ConfigError
from vqa2.experts._similarity import METRICS
from vqa2.experts.base import Info, NotApplicable
from vqa2.experts.tools.brisque import Brisque, BrisqueScorer, _Plain
from vqa2.experts.tools.niqe import Niqe, NiqeScorer
from vqa2.launch import composed

PIQ = {
    "psnr": 28.182984705, "ssim": 0.7972329592, "ms_ssim": 0.9725478456, "gmsd": 0.0495010386, "vif": 0.4486643477,
    "vsi": 0.9715635542,
}  # fmt: skip
"""piq 0.8.0 in float64 on `pair()`, luma for all but vsi (ssim with downsample=False)."""


def pair() -> tuple[np.ndarray, np.ndarray]:
    """A picture with odd sides, blurred and noisy, and the picture."""
    clean = astronaut()[:259, :301]
    noise = np.random.default_rng(0).normal(0, 6, clean.shape)
    made = np.clip(ndimage.gaussian_filter(clean.astype(float), (1.2, 1.2, 0)) + noise, 0, 255)
    return made.round().astype(np.uint8), clean


@pytest.mark.parametrize("name", PIQ)
def test_metrics_equal_piq(name):
    assert METRICS[name](*pair()) == pytest.approx(PIQ[name], rel=2e-6)


@pytest.mark.parametrize(("name", "best"), [(n, {"psnr": 100.0, "gmsd": 0.0}.get(n, 1.0)) for n in PIQ])
def test_equal_frames_get_the_best_value(name, best):
    clean = pair()[1]
    assert METRICS[name](clean, clean) == pytest.approx(best, abs=1e-6)


def test_small_pictures_are_refused_where_the_metric_has_a_least_size():
    tiny = np.zeros((32, 32, 3), np.uint8)
    for name in ("ms_ssim", "vif"):
        with pytest.raises(NotApplicable, match="smaller than"):
            METRICS[name](tiny, tiny)


def component(kind):
    info = decode(Info, composed("experts", [])["experts"]["tools"]["niqe"]["info"], "info")
    made = kind(info=info, frames=1, min_side_px=0)
    if made.missing():
        pytest.skip(made.missing())
    return made


def test_niqe_equals_scikit_video():
    made = component(Niqe)
    luma = astronaut()[:300, :420] @ np.array([0.299, 0.587, 0.114])
    # scikit-video works in float32; ours in float64 picks another of its 0.001 steps of shape here and there.
    assert NiqeScorer(made).frame(luma) == pytest.approx(10.040843, rel=5e-4)
    with pytest.raises(NotApplicable):
        NiqeScorer(made).frame(luma[:100])


def test_brisque_equals_the_package():
    made = component(Brisque)
    # The package solves for the shape, we take the nearest of 9800 steps of 0.001: features differ by 5e-4 at most.
    assert BrisqueScorer(made).frame(astronaut()[:300, :420]) == pytest.approx(-3.1314, abs=0.03)


def test_a_pickle_that_imports_something_is_refused(tmp_path):
    path = tmp_path / "p.pickle"
    path.write_bytes(pickle.dumps(np.float64(1)))
    with path.open("rb") as handle, pytest.raises(ConfigError, match="asks for"):
        _Plain(handle).load()
