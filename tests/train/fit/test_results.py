"""What `fit` returns prints as a few lines, however many numbers it holds."""

from typing import Any

import jax
import numpy as np

from fnnet.train import Best, Evaluation, Fitted

PARAMS = {"dense_0": {"w": np.zeros((300, 100)), "b": np.zeros(100)}}
BEST = Best(20, 0.25, PARAMS, {})
HISTORY: dict[str, Any] = {
    "eval_step": np.array([10, 20]),
    "valid_loss": np.array([0.5, 0.25]),
    "valid_confusion": np.zeros((2, 3, 3)),
    "train_loss": np.linspace(1, 0, 20),
}


def test_fitted_prints_as_a_few_lines() -> None:
    fitted = Fitted(PARAMS, {}, HISTORY, BEST, "finished", now=None)  # type: ignore[arg-type]
    assert repr(fitted) == (
        "Fitted(30,100 params, stopped='finished'\n"
        "  best: step 20, value 0.25\n"
        "  last evaluation, step 20: valid_loss 0.2500\n"
        "  history: eval_step[2], valid_loss[2], valid_confusion[2], train_loss[20])"
    )
    params, *_, now = fitted  # a tuple as before
    assert params is PARAMS
    assert now is None
    assert len(jax.tree.leaves(fitted)) == 2 * len(jax.tree.leaves(PARAMS)) + len(HISTORY) + 3


def test_fitted_without_an_evaluation() -> None:
    empty = {"eval_step": np.zeros(0, int), "train_loss": np.zeros(0)}
    fitted = Fitted({}, {}, empty, None, "interrupted", now=None)  # type: ignore[arg-type]
    assert repr(fitted) == "Fitted(0 params, stopped='interrupted'\n  history: eval_step[0], train_loss[0])"


def test_best_and_evaluation_print_as_a_line() -> None:
    assert repr(BEST) == "Best(step=20, value=0.25, 30,100 params)"
    evaluation = Evaluation(20, 2.5, {"step": 20, "valid_loss": 0.25, "valid_matrix": [[1, 2]]}, PARAMS, {})
    assert repr(evaluation) == "Evaluation(step=20, epoch=2.5, valid_loss 0.2500, 30,100 params)"
