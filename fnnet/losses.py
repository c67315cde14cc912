"""Losses: `(prediction, target) -> one value per example`, and penalties on the weights: `params -> scalar`.

The first axis is the batch. A loss is the mean over the other axes (the pixels of an image, the words of a
sentence), so its result has shape (batch,). It is computed and returned in float32 at least, whatever the dtype of
the prediction. NaN in a prediction gives NaN.

A target without a meaning, such as a label that does not exist, raises where its values are known. Under jit nothing
can be raised, and the loss of its example is NaN.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check, targets
from fnnet.activations import log_softmax, softplus
from fnnet.targets import at_least_float32


def mean_squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error: the mean of (y - t)^2, without the factor 1/2 that some texts use.

    Shapes: prediction y and target t (batch, ...), result (batch,).

    Raises:
        ValueError: the shapes differ, or an example has no numbers.

    Example:
        >>> fn.losses.mean_squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]]))
        Array([2.5], dtype=float32)
    """
    prediction, target = _same_shape("mean_squared_error", prediction, target)
    y, t = at_least_float32(prediction), at_least_float32(target)
    return _mean(jnp.square(y - t))


def mean_absolute_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean absolute error: the mean of |y - t|. Its derivative at y = t is 0.

    Shapes: prediction y and target t (batch, ...), result (batch,).

    Raises:
        ValueError: the shapes differ, or an example has no numbers.

    Example:
        >>> fn.losses.mean_absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]]))
        Array([1.5], dtype=float32)
    """
    prediction, target = _same_shape("mean_absolute_error", prediction, target)
    y, t = at_least_float32(prediction), at_least_float32(target)
    return _mean(_abs(y - t))


def huber(prediction: jax.Array, target: jax.Array, delta: chex.Numeric = 1.0) -> jax.Array:
    """Huber loss: quadratic near the target, linear far from it.

    The mean of

        (y - t)^2 / 2  where |y - t| <= delta,    delta (|y - t| - delta / 2)  elsewhere.

    Shapes: prediction y and target t (batch, ...), result (batch,).

    Args:
        prediction: y.
        target: t.
        delta: where the two parts meet, in (0, inf). It may be a tracer.

    Raises:
        TypeError: delta is not a number.
        ValueError: the shapes differ, an example has no numbers, or delta is not positive and finite.

    Source: Huber 1964, "Robust estimation of a location parameter".

    Example:
        >>> fn.losses.huber(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0]))
        Array([0.125, 2.5  ], dtype=float32)
    """
    check.number("huber", "delta", delta, "(0, inf)")
    prediction, target = _same_shape("huber", prediction, target)
    y, t = at_least_float32(prediction), at_least_float32(target)
    distance = jnp.abs(y - t)
    near = jnp.minimum(distance, delta)  # only this is squared: the square of a large distance could overflow
    return _mean(near * (distance - near / 2))


def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits z, for independent yes-or-no targets.

    The mean of

        -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z))  =  softplus(z) - t z

    Shapes: logits z and target t (batch, ...), result (batch,). Targets are probabilities in [0, 1] or booleans; under
    jit another one gives NaN.

    Raises:
        ValueError: the shapes differ, an example has no numbers, or a known target is outside [0, 1].

    Example:
        >>> fn.losses.binary_cross_entropy(jnp.array([-1000.0, 0.0]), jnp.array([1, 1]))
        Array([1.000000e+03, 6.931472e-01], dtype=float32)
    """
    logits, target = _same_shape("binary_cross_entropy", logits, target)
    z, t = at_least_float32(logits), targets.probabilities("binary_cross_entropy", target)
    # The same as softplus(z) - t z, without the difference of two large numbers.
    return _mean(_times(t, softplus(-z)) + _times(1 - t, softplus(z)))


def softmax_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Softmax cross-entropy of logits z, for one class among several.

    The mean of

        -log softmax(z)_t  for a label t,      -sum_k t_k log softmax(z)_k  for a distribution t.

    Shapes: logits (batch, ..., classes) of at least two classes, target integer (batch, ...) or floating
    (batch, ..., classes), result (batch,). One logit for yes or no is a matter of `binary_cross_entropy`.

    A label outside 0 .. classes - 1, and a distribution with a negative entry or a sum other than 1 (by more than
    0.01, or four units of half precision's last digit), raises where it is known, and gives NaN under jit.

    Raises:
        ValueError: the shapes do not match, there are fewer than two classes, or a known target is no label or
            distribution.
        TypeError: the target is neither integer nor floating point.

    Example:
        >>> logits = jnp.array([[100.0, 0.0], [0.0, 0.0]])
        >>> fn.losses.softmax_cross_entropy(logits, jnp.array([1, 1]))
        Array([100.       ,   0.6931472], dtype=float32)
        >>> fn.losses.softmax_cross_entropy(logits, jnp.array([[0.5, 0.5], [0.5, 0.5]]))
        Array([50.       ,  0.6931472], dtype=float32)
    """
    z = _scores("softmax_cross_entropy", logits)
    return _cross_entropy("softmax_cross_entropy", log_softmax(z), target)


def nll(log_probabilities: jax.Array, target: jax.Array) -> jax.Array:
    """Negative log-likelihood: -l_t for log-probabilities l, such as those from `log_softmax`.

    Shapes and targets as in `softmax_cross_entropy`, which is `nll(log_softmax(z), t)`.

    Raises:
        TypeError, ValueError: as in `softmax_cross_entropy`.

    Example:
        >>> fn.losses.nll(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0]))
        Array([1.3862944], dtype=float32)
    """
    return _cross_entropy("nll", _scores("nll", log_probabilities), target)


def hinge(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Hinge loss of a support vector machine: the mean of max(0, 1 - t y), with targets t of -1 or 1.

    Shapes: prediction y and target t (batch, ...), result (batch,). Under jit a target other than -1 or 1 gives NaN.

    Raises:
        ValueError: the shapes differ, an example has no numbers, or a known target is not -1 or 1.
        TypeError: the target is boolean, which would mean 0 or 1.

    Source: Cortes & Vapnik 1995, "Support-vector networks".

    Example:
        >>> fn.losses.hinge(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1]))
        Array([0. , 0.5, 2. ], dtype=float32)
    """
    prediction, target = _same_shape("hinge", prediction, target)
    if target.dtype == bool:
        raise TypeError(f"hinge: target is {check.describe(target)}, wanted numbers -1 or 1: 2 * target - 1")
    y, t = at_least_float32(prediction), targets.signs("hinge", target)
    margin = 1 - t * y
    return _mean(jnp.where(margin <= 0, 0, margin))  # jnp.where(margin > 0, margin, 0) would turn NaN into 0


def class_weighted(loss: Callable[[Any, Any], jax.Array], weights: Any) -> Callable[[Any, Any], jax.Array]:
    """A loss with a weight for each class, for rare classes or costly mistakes.

        w_c loss(y, t)          for a target t of class c

    With w_c = n / (classes n_c), for n examples of which n_c have class c, all classes count the same and the mean
    weight is 1. (The loss of a batch is divided by the number of its examples, as in Keras. PyTorch divides by the
    sum of their weights.)

    Args:
        loss: `(prediction, target) -> one value per example`, with one class per example: labels (batch,), or
            distributions (batch, classes), which get the mean weight of their classes.
        weights: float[classes], not negative. They may be tracers, so that they can be swept or differentiated; a
            negative one then gives NaN.

    Raises:
        ValueError: the weights are not a vector of such numbers; the target has another form, or is known and no
            label or distribution. Under jit such a target gives NaN.

    Example:
        >>> loss = fn.losses.class_weighted(fn.losses.softmax_cross_entropy, [1.0, 10.0])
        >>> loss(jnp.zeros((2, 2)), jnp.array([0, 1]))
        Array([0.6931472, 6.931472 ], dtype=float32)
    """
    w, given = targets.array(weights), targets.known(weights)
    is_vector = w.ndim == 1 and w.size > 0
    if given is not None and is_vector:
        is_real = jnp.issubdtype(w.dtype, jnp.floating) or jnp.issubdtype(w.dtype, jnp.integer)
        is_vector = is_real and bool(np.all((given >= 0) & np.isfinite(given)))
    if not is_vector:
        shown = check.describe(w) if given is None else repr(weights)
        raise ValueError(f"class_weighted: weights={shown}, wanted a vector of numbers of at least 0")
    classes = w.size

    def weighted(prediction: Any, target: Any) -> jax.Array:
        values, t = loss(prediction, target), targets.array(target)
        w_c = jnp.asarray(w).astype(values.dtype)
        if given is None:
            w_c = jnp.where((w_c >= 0) & jnp.isfinite(w_c), w_c, jnp.nan)
        if t.ndim == 1 and jnp.issubdtype(t.dtype, jnp.integer):
            label = targets.labels("class_weighted", t, classes)
            return jnp.where((label < 0) | (label >= classes), jnp.nan, w_c[label]) * values
        if t.ndim == 2 and t.shape[1] == classes:
            mean = jnp.asarray(t).astype(values.dtype) @ w_c
            return jnp.where(targets.is_distribution("class_weighted", t), mean, jnp.nan) * values
        raise ValueError(
            f"class_weighted: target is {check.describe(t)}, wanted labels (batch,) or distributions "
            f"(batch, {classes})"
        )

    return weighted


def l1(params: Any, where: Callable[[str], bool] = lambda path: True) -> jax.Array:
    """L1 penalty (lasso): the sum of |theta| over the params whose path passes the filter.

    It drives weights to 0. Its derivative at 0 is 0.

    Args:
        params: tree of arrays.
        where: a filter of paths, such as "dense_0/w". `lambda path: path.endswith("w")` leaves out the biases.

    Returns:
        A scalar, float32 at least. `make_run(penalties=...)` adds it, times a strength, to the loss.

    Raises:
        ValueError: no path passes the filter.

    Source: Tibshirani 1996, "Regression shrinkage and selection via the lasso".

    Example:
        >>> params = {"dense_0": {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([10.0, 10.0])}}
        >>> fn.losses.l1(params, lambda path: path.endswith("w"))
        Array(3., dtype=float32)
    """
    return _penalty("l1", _abs, params, where)


def l2(params: Any, where: Callable[[str], bool] = lambda path: True) -> jax.Array:
    """L2 penalty (ridge): the sum of theta^2 over the params whose path passes the filter.

    Its gradient is 2 theta.

    Args:
        params: tree of arrays.
        where: a filter of paths, such as "dense_0/w". `lambda path: path.endswith("w")` leaves out the biases.

    Returns:
        A scalar, float32 at least. `make_run(penalties=...)` adds it, times a strength, to the loss.

    Raises:
        ValueError: no path passes the filter.

    Source: Hoerl & Kennard 1970, "Ridge regression".

    Example:
        >>> params = {"dense_0": {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([10.0, 10.0])}}
        >>> fn.losses.l2(params, lambda path: path.endswith("w"))
        Array(5., dtype=float32)
    """
    return _penalty("l2", jnp.square, params, where)


def _abs(x: jax.Array) -> jax.Array:
    """The absolute value. The derivative of `jnp.abs` at 0 is 1."""
    return x * jnp.sign(x)


def _times(p: jax.Array, x: jax.Array) -> jax.Array:
    """The product p x of a probability and a logarithm, with 0 log 0 = 0."""
    return p * jnp.where((p == 0) & jnp.isinf(x), 0, x)


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def _same_shape(loss: str, prediction: Any, target: Any) -> tuple[Any, Any]:
    prediction, target = targets.array(prediction), targets.array(target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"{loss}: prediction is {check.describe(prediction)} and target {check.describe(target)}, wanted one "
            "shape; broadcasting would compare every prediction with every target"
            + targets.remedy(target.shape, prediction.shape)
        )
    targets.check_not_empty(loss, prediction, "at least one number per example")
    return prediction, target


def _scores(loss: str, x: Any) -> jax.Array:
    x = targets.array(x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{loss}: prediction is {check.describe(x)}, wanted shape (batch, ..., classes)")
    if x.shape[-1] == 1:
        raise ValueError(
            f"{loss}: prediction is {check.describe(x)}, wanted (batch, ..., classes) with at least two classes, "
            "because the softmax of one score is always 1; for one logit that decides yes or no use "
            "binary_cross_entropy"
        )
    targets.check_not_empty(loss, x, "(batch, ..., classes)")
    return at_least_float32(x)


def _cross_entropy(loss: str, log_p: jax.Array, target: Any) -> jax.Array:
    target = targets.array(target)
    got = f"{loss}: prediction is {check.describe(log_p)} and target {check.describe(target)}"
    if jnp.issubdtype(target.dtype, jnp.integer):
        if target.shape != log_p.shape[:-1]:
            remedy = targets.remedy(target.shape, log_p.shape[:-1])
            raise ValueError(f"{got}, wanted integer labels of shape {log_p.shape[:-1]}{remedy}")
        classes = log_p.shape[-1]
        label = targets.labels(loss, target, classes)
        # A negative index would count from the end.
        label = jnp.where((label < 0) | (label > classes), classes, label)
        return _mean(-jnp.take_along_axis(log_p, label[..., None], axis=-1, mode="fill").squeeze(-1))
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise TypeError(f"{got}, wanted integer labels or a floating-point distribution")
    if target.shape != log_p.shape:
        raise ValueError(
            f"{got}, wanted a distribution of shape {log_p.shape}, or labels as integers: y.astype(int)"
        )
    # 0 log 0 = 0: a class of probability 0 may have a logit of -inf.
    entropy = -jnp.sum(_times(at_least_float32(target), log_p), axis=-1)
    # A factor, so that the gradient is NaN, too.
    return _mean(entropy * jnp.where(targets.is_distribution(loss, target), 1, jnp.nan).astype(entropy.dtype))


def _penalty(
    penalty: str, f: Callable[[jax.Array], jax.Array], params: Any, where: Callable[[str], bool]
) -> jax.Array:
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]
    chosen = [leaf for path, leaf in leaves if where(path)]
    if not chosen:
        raise ValueError(
            f"{penalty}: no params pass the filter, wanted at least one of {[path for path, _ in leaves]}"
        )
    return sum(
        (jnp.sum(f(at_least_float32(leaf))) for leaf in chosen),
        jnp.zeros((), at_least_float32(chosen[0]).dtype),
    )
