"""Raters trained on labels reproduce them: targets, training and scoring use the same form of a query."""

import numpy as np
import pyarrow as pa
import pytest

from curation.signals.core.table import read_signal
from curation.signals.core.vlm import Vlm
from curation.signals.raters.agreement import capability_report, style_report
from curation.signals.raters.capability import score_capabilities
from curation.signals.raters.queries import load_queries
from curation.signals.raters.style import score_styles
from curation.signals.raters.targets import RaterExamples, scorer_targets, styler_targets
from curation.taxonomy import CAPABILITY_KEYS
from training.fit import FitSpec, fit

pytestmark = pytest.mark.slow

QUERIES = load_queries("compact")


@pytest.fixture(scope="module")
def labels(small_pool):
    """Capability k scores k % 6 for a sample with an image, else 0; styles depend on the image, too."""
    has_image = np.array([bool(sample.images) for sample in small_pool.samples()])
    columns = {
        f"cap_{key}": pa.array(np.where(has_image, k % 6, 0), pa.int8())
        for k, key in enumerate(CAPABILITY_KEYS)
    }
    styles = [["word", "comparison"] if image else ["yes_no"] for image in has_image]
    return pa.table(
        {"row": small_pool.table["row"], "id": small_pool.table["id"], **columns, "styles": styles}
    )


def train(pool, base, targets, out, steps):
    examples = list(RaterExamples(pool, Vlm(base, device="cpu").renderer, targets))
    fit(FitSpec(max_steps=steps, lr=3e-3, batch_size=8, seed=0), base, examples, out)
    return out


def test_a_trained_scorer_reproduces_its_labels(small_pool, tiny_vlm_dir, labels, tmp_path):
    scorer = train(
        small_pool, tiny_vlm_dir, scorer_targets(labels, QUERIES)[0], tmp_path / "scorer", steps=100
    )
    summary = score_capabilities(small_pool, scorer, tmp_path / "signal")
    report = capability_report(read_signal(tmp_path / "signal"), labels)
    assert summary["mean_digit_mass"] > 0.9
    assert report["mean"]["auc"] > 0.95 and report["mean"]["mae"] < 0.3


def test_a_trained_styler_reproduces_its_labels(small_pool, tiny_vlm_dir, labels, tmp_path):
    styler = train(
        small_pool, tiny_vlm_dir, styler_targets(labels, QUERIES)[0], tmp_path / "styler", steps=60
    )
    score_styles(small_pool, styler, tmp_path / "signal")
    report = style_report(read_signal(tmp_path / "signal"), labels)
    assert report["exact"] > 0.95 and report["other"] < 0.05
