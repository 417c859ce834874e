"""How scores are found in what a script prints, and which way a metric improves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.solving.direction import of_name
from actors.solving.score import Unclear, find, only_number
from envs.records import Direction


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ("accuracy: 0.5\nepoch 2 accuracy = 0.75", 0.75),
        ("Accuracy 1e-3", 0.001),
        ("balanced accuracy: -3", -3.0),
        ("accuracy: 12,345.6", 12345.6),
        ("accuracy: 1,234,567", 1234567.0),
        ("accuracy: 91.5%", 0.915),
        ("The accuracy is 0.91.", 0.91),
        ("accuracy: 0.91\nCV accuracy: 0.85 ± 0.02", 0.91),
        ("CV accuracy: 0.85 (+/- 0.02)", 0.85),
        ("top5 accuracy: 0.99\naccuracy: 0.7", 0.7),
        ("loss: 0.3 - accuracy: 0.9 - val_accuracy: 0.8", 0.9),
        ("INFO:root:accuracy: 0.9, loss: 0.1", 0.9),
        ("{'loss': 0.1, 'accuracy': 0.9}", 0.9),
        ("accuracy: np.float64(0.9)", 0.9),
        ("accuracy: tensor([0.9], device='cpu')", 0.9),
        ("| accuracy | 0.9 |", 0.9),
        ("accuracy on the test set: 0.9", 0.9),
        ("accuracy (test) = 0.9", 0.9),
        ('accuracy: 0.5\n{"accuracy": 0.25, "step": 1}\n{"accuracy": 0.75}\naccuracy: 0.6', 0.75),
    ],
)
def test_the_score_is_what_stands_after_the_name(output, score):
    assert find(output, "accuracy").value == pytest.approx(score, rel=1e-12)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("accuracy: 0.9\naccuracy: nan", "no finite number: 'accuracy: nan'"),
        ("accuracy: 0.9\naccuracy: -inf", "no finite number"),
        ("accuracy: 0.9\naccuracy: None", "no finite number"),
        ('accuracy: 0.9\n{"accuracy": NaN}', "no finite number"),
        ('{"accuracy": "high"}', '"high" is no number'),
        ("accuracy: 0,91", "two ways"),
        ("accuracy: 12,34", "two ways"),
        ("accuracy: 3/5", "two ways"),
        ("accuracy: 0.5abc", "two ways"),
        ("accuracy: [0.9, 0.8]", "two ways"),
        ("train accuracy: 1.0\ntest accuracy: 0.9", "as `train accuracy`, `test accuracy`: .* metric='test accuracy'"),
        ("accuracy: 0.9\naccuracy: 0.8\nmean accuracy: 0.85", "as `accuracy`, `mean accuracy`"),
        ("test_accuracy: 0.5", "no line like `accuracy: 0.9`; it prints `test_accuracy`: give one"),
        ("Accuracy of the network on the 10000 test images: 76 %", "no line like"),
        ("accuracy on the 10000 test images: 76 %", "no line like"),
        ("", "no line like `accuracy: 0.9`$"),
    ],
)
def test_what_could_be_meant_in_two_ways_or_is_no_number_is_refused(output, reason):
    with pytest.raises(Unclear, match=reason):
        find(output, "accuracy")


def test_what_was_read_at_the_start_is_read_again_whatever_else_is_printed():
    first = find("test accuracy: 0.5", "accuracy")
    assert first.label == "test accuracy"
    later = "accuracy: 1.0\nTest  Accuracy: 0.6\nensemble accuracy: 0.9"
    assert find(later, "accuracy", first.label).value == 0.6
    with pytest.raises(Unclear, match="no line like `test accuracy: 0.9`"):
        find("accuracy: 1.0", "accuracy", first.label)
    told = find('{"accuracy": 0.5}', "accuracy")
    with pytest.raises(Unclear, match="no more JSON line"):
        find("accuracy: 1.0", "accuracy", told.label)


def test_a_score_command_prints_a_number_last():
    assert only_number("reading\n0.75\n").value == 0.75
    for output in ("", "0.75\ndone", "nan"):
        with pytest.raises(Unclear):
            only_number(output)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["{}", "{:.3f}", "{:,.2f}", "{:e}", "{:+}"]))
def test_a_number_is_read_as_python_writes_it(number, form):
    text = form.format(number)
    assert find(f"loss: 1\nscore = {text}", "score").value == float(text.replace(",", ""))


@given(st.text(max_size=200), st.text(min_size=1, max_size=20))
def test_any_output_has_a_score_or_is_refused(output, metric):
    try:
        find(output, metric or "x")
    except Unclear as reason:
        assert str(reason)


@pytest.mark.parametrize(
    ("smaller", "names"),
    [
        (True, "loss val_loss valLoss MAE rmse log_loss NLL WER FID brier brier_score latency_ms perplexity"),
        (True, "error_rate cer negative_log_likelihood cross-entropy mean_absolute_error top-5_error time"),
        (False, "accuracy CV_accuracy AUC roc_auc F1 f1_score R² r2_score mAP NDCG@10 rouge1 score"),
        (False, "test_score kappa psnr log_likelihood neg_log_loss neg_mean_squared_error mean_reward"),
        (None, "maestro_score quality accuracy_loss brilliance x"),
    ],
)  # fmt: skip
def test_the_direction_of_a_known_name_is_known_and_of_others_asked_for(smaller, names):
    wanted = None if smaller is None else Direction.MINIMIZE if smaller else Direction.MAXIMIZE
    assert {name: of_name(name) for name in names.split()} == dict.fromkeys(names.split(), wanted)
