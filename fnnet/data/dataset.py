"""A data set: three dicts of arrays, for training, validation and test."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check

Examples = dict[str, Any]

PARTS = ("train", "valid", "test")


class Dataset(NamedTuple):
    """Three parts, each a dict {"x": inputs, "y": targets} of arrays with the examples along the first axis.

    Attributes:
        train: the part that the gradient is computed on.
        valid: the part for choices, such as that of a learning rate; None if there is no such part.
        test: the part for the final report; None if there is no such part.

    Example:
        >>> data = fn.data.Dataset(train=fn.data.xor())
        >>> jax.tree.map(jnp.shape, data)
        Dataset(train={'x': (4, 2), 'y': (4,)}, valid=None, test=None)
    """

    train: Examples
    valid: Examples | None = None
    test: Examples | None = None


def split(
    examples: Examples, *, valid: float = 0.2, test: float = 0.2, seed: int = 0, stratify: bool = True
) -> Dataset:
    """Shuffles examples and splits them into three parts. Every example is in exactly one of them.

    If stratified, each part has the classes in the same proportions as the whole: if m of the n examples have a
    label, a part of s examples has m s / n of them, to within one.

    Args:
        examples: dict (or tree) of arrays with equal leading axes. To stratify, "y" must be the labels, integer[n].
        valid: fraction of the examples for validation, in [0, 1). With 0, the part is None.
        test: fraction of the examples for the test, in [0, 1). With 0, the part is None.
        seed: seed of the shuffle, 0 or more. It is done by NumPy and is the same on every device.
        stratify: whether to keep the proportions of the classes. Use False for targets that are not labels.

    Raises:
        TypeError: a fraction is not a number, seed is not an int, or stratify is not True or False.
        ValueError: the leading axes differ, a part would be empty, the labels are not integer[n], a class is too
            small for an example in each part, seed is negative, or an integer does not fit in JAX's int32.

    Example:
        >>> examples = fn.data.blobs(jax.random.key(0), 30, classes=3)
        >>> data = fn.data.split(examples, valid=0.2, test=0.0)
        >>> data.train["x"].shape, jnp.bincount(data.valid["y"]), data.test
        ((24, 2), Array([2, 2, 2], dtype=int32), None)
    """
    check.integer("split", "seed", seed, "[0, inf)")
    check.flag("split", "stratify", stratify)
    n = _count(examples)
    sizes = _sizes(n, valid, test)
    order = np.random.default_rng(seed).permutation(n)
    # Without stratification all examples are treated as one class.
    classes, label = np.unique(_labels(examples, n) if stratify else np.zeros(n, int), return_inverse=True)
    counts = _counts(np.bincount(label), sizes)
    missing = np.argwhere((counts == 0) & (sizes > 0))
    if missing.size:
        c, p = missing[0]
        raise ValueError(
            f"split: class {classes[c]} has too few examples ({counts[c].sum()}) for one in {PARTS[p]}; "
            f"wanted at least {-(-n // sizes[p])}, a larger fraction, or stratify=False"
        )

    # Within each class, in random order, the first examples go to train, the next to valid, the last to test.
    by_class = order[np.argsort(label[order], kind="stable")]
    part = np.empty(n, int)
    part[by_class] = np.repeat(np.tile(np.arange(len(PARTS)), len(classes)), counts.ravel())

    def take(p: int) -> Any:
        index = order[part[order] == p]
        if not sizes[p]:
            return None
        taken = jax.tree.map(lambda a: np.asarray(a)[index], examples)
        check.fits_in_jax("split", taken)
        return jax.tree.map(jnp.asarray, taken)

    return Dataset(take(0), take(1), take(2))


def standardize(dataset: Dataset, *, axis: int | tuple[int, ...] = 0) -> Dataset:
    """Gives the inputs mean 0 and standard deviation 1, using statistics of the training part only.

        x <- (x - mean) / std        in train, valid and test

    Args:
        dataset: a data set with floating-point x in each part.
        axis: the axes over which mean and std are computed, which must include axis 0, the examples: 0 gives one
            mean and std per feature or pixel, (0, 1, 2) one per channel of images (n, height, width, channels).

    Returns:
        The data set with x in float32, or in float64 if it was float64. The std is that of the population (divided
        by n), computed in double precision. It is taken as 1 for values that are constant in the training part.

    Raises:
        TypeError: x is not floating point, or an axis is not an int.
        ValueError: the axes do not include axis 0, or one of them does not exist.

    Example:
        >>> data = fn.data.Dataset({"x": jnp.array([[1.0, 5.0], [3.0, 5.0]]), "y": jnp.array([0, 1])})
        >>> fn.data.standardize(data).train["x"]
        Array([[-1.,  0.],
               [ 1.,  0.]], dtype=float32)
    """
    for part in dataset:
        if part is not None:
            check.is_floating("standardize", part["x"])
    x = np.asarray(dataset.train["x"])
    for a in axis if isinstance(axis, tuple) else (axis,):
        check.integer("standardize", "axis", a, f"[{-x.ndim}, {x.ndim})")
    if 0 not in np.atleast_1d(axis) % max(x.ndim, 1):
        raise ValueError(f"standardize: axis={axis}, wanted the examples' axis 0 among the axes")
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    mean = x.mean(axis, dtype=np.float64, keepdims=True)
    std = x.std(axis, dtype=np.float64, keepdims=True)
    # If all values are the same, rounding can leave a small variance.
    std[(np.ptp(x, axis, keepdims=True) == 0) | (std == 0)] = 1

    def apply(part: Examples) -> Examples:
        x = np.asarray(part["x"])
        y = np.subtract(
            x, mean, out=np.empty(x.shape, dtype)
        )  # computed in double precision, stored in single
        return {**part, "x": jnp.asarray(np.divide(y, std, out=y))}

    return Dataset(apply(dataset.train), *(part and apply(part) for part in dataset[1:]))


def _count(examples: Examples) -> int:
    """The number of examples, which is the leading axis of all arrays."""
    leading = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(examples)}
    if len(leading) != 1 or leading == {()}:
        raise ValueError(f"split: got {check.describe(examples)}, wanted arrays with equal leading axes")
    return int(leading.pop()[0])


def _sizes(n: int, valid: float, test: float) -> np.ndarray:
    """The number of examples in train, valid and test: the fractions of n, rounded."""
    for name, fraction in (("valid", valid), ("test", test)):
        check.number("split", name, fraction, "[0, 1)")
        if fraction > 0 and round(fraction * n) == 0:
            raise ValueError(f"split: {name}={fraction} of {n} examples is none; wanted at least one, or 0")
    sizes = np.array([n - round(valid * n) - round(test * n), round(valid * n), round(test * n)])
    if sizes[0] < 1:
        raise ValueError(f"split: valid={valid} and test={test} leave none of {n} examples to train on")
    return sizes


def _labels(examples: Examples, n: int) -> np.ndarray:
    y: Any = examples.get("y") if isinstance(examples, dict) else None
    if np.shape(y) != (n,) or np.asarray(y).dtype.kind not in "iub":
        raise ValueError(
            f"split: y is {check.describe(y)}, wanted integer labels of shape ({n},); "
            "for other targets pass stratify=False"
        )
    return np.asarray(y)


def _counts(class_sizes: np.ndarray, part_sizes: np.ndarray) -> np.ndarray:
    """How many examples of each class go to each part: within one of m s / n, with exact row and column sums.

    Each class distributes the examples left over by rounding down, at most one to a part, first to the parts that
    still need most. This always works out: it is how a 0-1 matrix is built from its row and column sums (Gale 1957;
    Ryser 1957).
    """
    exact = np.outer(class_sizes, part_sizes)  # times n
    counts, remainder = np.divmod(exact, class_sizes.sum())
    need = part_sizes - counts.sum(axis=0)
    for c, left in enumerate(class_sizes - counts.sum(axis=1)):
        chosen = np.lexsort((-remainder[c], -need))[:left]
        counts[c, chosen] += 1
        need[chosen] -= 1
    return counts
