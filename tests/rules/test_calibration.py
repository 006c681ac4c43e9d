"""Figures about probabilities, and putting them right."""

import numpy as np
import pytest

from cl.rules import calibration

DICE = np.random.default_rng(0)


def test_auc_counts_pairs_in_the_right_order_and_ties_as_half():
    up = np.array([True, True, False, False])
    assert calibration.auc(np.array([0.9, 0.4, 0.5, 0.4]), up) == pytest.approx(
        (1 + 1 + 0 + 0.5) / 4
    )


def test_weights_count_as_rows_that_come_several_times():
    up, scores = np.array([True, False, True]), np.array([0.2, 0.5, 0.9])
    twice = calibration.auc(np.array([0.2, 0.5, 0.9, 0.9]), np.array([True, False, True, True]))
    assert calibration.auc(scores, up, np.array([1.0, 1.0, 2.0])) == pytest.approx(twice)


def test_without_both_kinds_of_labels_there_is_no_auc():
    assert np.isnan(calibration.auc(np.array([0.1, 0.2]), np.array([True, True])))


def test_calibration_error_is_the_distance_to_what_happened():
    chances, up = np.full(10, 0.75), np.arange(10) < 5
    assert calibration.calibration_error(chances, up) == pytest.approx(0.25)
    assert calibration.brier(chances, up) == pytest.approx(0.3125)


def test_the_interval_grows_when_rows_belong_together():
    scores = DICE.normal(size=400)
    up = scores + DICE.normal(size=400) > 0
    alone = calibration.interval(calibration.auc, scores, up, [str(i) for i in range(400)], 0)
    together = calibration.interval(
        calibration.auc, scores, up, [str(i // 40) for i in range(400)], 0
    )
    assert alone.low < alone.value < alone.high
    assert together.high - together.low != alone.high - alone.low


@pytest.mark.parametrize("rows", [400, 6000])
def test_calibrated_scores_are_close_to_the_true_chances(rows):
    scores = DICE.normal(size=rows) * 3
    true = calibration.sigmoid(0.5 * scores - 1)
    found = calibration.calibrate(scores, DICE.random(rows) < true)(scores)
    assert np.abs(found - true).mean() < (0.06 if rows == 400 else 0.03)


def test_with_many_labels_a_bend_that_no_sigmoid_has_is_learned():
    dice = np.random.default_rng(0)  # of its own: the same whichever tests run
    scores = dice.random(6000)
    true = np.where(scores < 0.5, 0.1, 0.5)
    up = dice.random(6000) < true
    curve = calibration.calibrate(scores, up)
    sigmoid = calibration.Calibration(curve.slope, curve.offset, np.empty(0), np.empty(0))
    alone = np.abs(sigmoid(scores) - true).mean()
    assert np.abs(curve(scores) - true).mean() < 0.6 * alone


def test_a_score_that_orders_the_wrong_way_is_not_turned_round():
    scores = DICE.normal(size=300)
    curve = calibration.calibrate(scores, scores < 0)
    assert np.ptp(curve(scores)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_calibration_keeps_the_order_of_scores(seed):
    dice = np.random.default_rng(seed)
    scores = np.sort(dice.normal(size=3000))
    curve = calibration.calibrate(scores, dice.random(3000) < calibration.sigmoid(scores))
    assert (np.diff(curve(scores)) > 0).all()
