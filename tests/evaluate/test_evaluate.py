"""Intervals cover, comparisons are paired, calibration is what it says."""

import random

import pytest

from chatwright.core.types import ChatwrightError
from chatwright.evaluate.compare import compare
from chatwright.evaluate.figures import verdict
from chatwright.evaluate.metrics import METRICS, judge_quality
from chatwright.evaluate.report import write_report
from chatwright.evaluate.stats import bootstrap, detectable, mcnemar, proportion


def test_the_bootstrap_interval_covers_about_as_often_as_it_says():
    draw = random.Random(1)
    hits = 0
    for trial in range(150):
        found = bootstrap([draw.gauss(0.3, 1) for _ in range(60)], seed=trial, resamples=400)
        hits += found.low <= 0.3 <= found.high
    assert 0.88 <= hits / 150 <= 0.99


def test_the_same_values_give_the_same_interval_and_odd_cases_have_one():
    values = [0.1, 0.5, 0.9, 0.2]
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap([2.0]) == (2.0, 2.0, 2.0) and bootstrap([1.0, 1.0]).low == 1.0
    assert bootstrap([]).mean != bootstrap([]).mean
    assert proportion(0, 10).low == 0 and proportion(10, 10).high == 1


def test_comparisons_are_paired():
    draw = random.Random(2)
    before = [draw.gauss(0, 10) for _ in range(80)]
    after = [b + 0.5 + draw.gauss(0, 0.2) for b in before]
    found = compare(before, after)
    assert found.low > 0.4 and found.high < 0.6 and found.p_value is None and found.n == 80
    assert found.detectable == pytest.approx(detectable([a - b for a, b in zip(after, before, strict=True)]))
    yes_no = compare([0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    assert yes_no.p_value == mcnemar([0, 0, 1, 0], [1, 1, 1, 1]) == 0.25
    with pytest.raises(ValueError, match="paired"):
        compare([1.0], [1.0, 2.0])


def test_mcnemar_of_nothing_changed_is_one():
    assert mcnemar([1, 0], [1, 0]) == 1.0


def test_a_judges_figures_by_hand():
    pairs = [(2.0, 0.0, 5, 5), (1.0, 2.0, 9, 3), (3.0, 1.0, 2, 8), (0.5, 0.5, 4, 4)]
    keys = ("chosen", "rejected", "chosen_tokens", "rejected_tokens")
    found = judge_quality([dict(zip(keys, pair, strict=True)) for pair in pairs])
    assert found["accuracy"] == (1 + 0 + 1 + 0.5) / 4 and found["pairs"] == 4
    assert found["margin"] == pytest.approx((2 - 1 + 2 + 0) / 4)
    assert found["longer_is_better"] == 0.25 and -1 <= found["length_bias"] <= 1


def test_a_judge_that_knows_how_sure_it_is_has_no_calibration_error():
    draw = random.Random(3)
    rows = []
    for _ in range(4000):
        margin = draw.gauss(0, 2)
        right = draw.random() < 1 / (1 + 2.718281828 ** -abs(margin))
        rows.append(
            {
                "chosen": abs(margin) if right else -abs(margin),
                "rejected": 0.0,
                "chosen_tokens": 1,
                "rejected_tokens": 2,
            }
        )
    assert judge_quality(rows)["ece"] < 0.03
    sure = [{**row, "chosen": row["chosen"] * 20} for row in rows]
    assert judge_quality(sure)["ece"] > 0.1


def test_metrics_and_verdicts():
    answers = [
        {"text": "aaaa", "tokens": 4, "finished": True, "reward": 1.0},
        {"text": "abcd", "tokens": 6, "finished": False, "reward": 0.0},
    ]
    found = {name: metric(answers) for name, metric in METRICS.items()}
    assert found == {"reward": 0.5, "length": 5, "finished": 0.5, "distinct": 4 / 6}
    gain = {
        "before": "a",
        "after": "b",
        "prompts": 9,
        "reward_before": 0,
        "reward_after": 1,
        "reward_gain": 1,
        "kl": 2,
    }
    tones = [verdict({"rl": {**gain, "reward_gain_ci": ci}})[0][0] for ci in ([0.5, 1.5], [-2, -1], [-1, 1])]
    assert tones == ["good", "bad", "open"]


def test_a_folder_without_a_run_is_a_sentence(tmp_path):
    with pytest.raises(ChatwrightError, match="no run in this folder"):
        write_report(tmp_path)
