"""A data set: three dicts of arrays, one for training, one for validation, one for the test."""

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
        train: what the gradient sees.
        valid: what choices are made on, such as a learning rate; None where there is no such part.
        test: what is reported; None where there is no such part.

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
    """Shuffles examples and cuts them into three parts: every example goes into exactly one.

    Stratified, each part has the classes in the proportions of the whole: of the m examples with one label
    among the n, a part of s examples holds m s / n to within one.

    Args:
        examples: dict (or tree) of arrays with equal leading axes; stratified, "y" is the labels, integer[n].
        valid: share of the examples for validation, in [0, 1); with 0, the part is None.
        test: share of the examples for the test, in [0, 1); with 0, the part is None.
        seed: of the shuffle, which is NumPy's, the same on every device.
        stratify: whether to keep the proportions of the classes; False for targets that are no labels.

    Raises:
        ValueError: leading axes that differ, shares that leave a part empty, labels that are not integer[n],
            or a class too small for an example in each part.

    Example:
        >>> examples = fn.data.blobs(jax.random.key(0), 30, classes=3)
        >>> data = fn.data.split(examples, valid=0.2, test=0.0)
        >>> data.train["x"].shape, jnp.bincount(data.valid["y"]), data.test
        ((24, 2), Array([2, 2, 2], dtype=int32), None)
    """
    n = _count(examples)
    sizes = _sizes(n, valid, test)
    order = np.random.default_rng(seed).permutation(n)
    # Without strata, all are of one class.
    classes, label = np.unique(_labels(examples, n) if stratify else np.zeros(n, int), return_inverse=True)
    counts = _counts(np.bincount(label), sizes)
    missing = np.argwhere((counts == 0) & (sizes > 0))
    if missing.size:
        c, p = missing[0]
        raise ValueError(
            f"split: class {classes[c]} has too few examples ({counts[c].sum()}) for one in {PARTS[p]}; "
            f"wanted at least {-(-n // sizes[p])}, a larger share, or stratify=False"
        )

    # Within each class, in the random order, the first go to train, the next to valid, the last to test.
    by_class = order[np.argsort(label[order], kind="stable")]
    part = np.empty(n, int)
    part[by_class] = np.repeat(np.tile(np.arange(len(PARTS)), len(classes)), counts.ravel())

    def take(p: int) -> Any:
        index = order[part[order] == p]
        return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[index]), examples) if sizes[p] else None

    return Dataset(take(0), take(1), take(2))


def standardize(dataset: Dataset, *, axis: int | tuple[int, ...] = 0) -> Dataset:
    """Inputs of mean 0 and standard deviation 1, by the statistics of the training part alone.

        x <- (x - mean) / std        in train, valid and test

    Args:
        dataset: with floating x in each part.
        axis: the axes that mean and std run over, the examples' axis 0 among them: 0 for one of each per
            feature or pixel, (0, 1, 2) for one per channel of images (n, height, width, channels).

    Returns:
        The data set with x float32, or float64 where it was float64. The std is the population's (divided by
        n), taken in double precision; of what is constant in training it is taken as 1.

    Raises:
        TypeError: x is not floating point.
        ValueError: axis 0 is not among the axes, or one of them does not exist.

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
    if 0 not in np.atleast_1d(axis) % max(x.ndim, 1):
        raise ValueError(f"standardize: axis={axis}, wanted the examples' axis 0 among the axes")
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    mean = x.mean(axis, dtype=np.float64, keepdims=True)
    std = x.std(axis, dtype=np.float64, keepdims=True)
    # Rounding can leave a trace of variance where every value is the same.
    std[(np.ptp(x, axis, keepdims=True) == 0) | (std == 0)] = 1

    def apply(part: Examples) -> Examples:
        x = np.asarray(part["x"])
        y = np.subtract(x, mean, out=np.empty(x.shape, dtype))  # in double precision, stored in single
        return {**part, "x": jnp.asarray(np.divide(y, std, out=y))}

    return Dataset(apply(dataset.train), *(part and apply(part) for part in dataset[1:]))


def _count(examples: Examples) -> int:
    """How many examples there are: the leading axis that all arrays share."""
    leading = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(examples)}
    if len(leading) != 1 or leading == {()}:
        raise ValueError(f"split: got {check.describe(examples)}, wanted arrays with equal leading axes")
    return int(leading.pop()[0])


def _sizes(n: int, valid: float, test: float) -> np.ndarray:
    """The number of examples in train, valid and test: the shares of n, rounded."""
    for name, share in (("valid", valid), ("test", test)):
        check.between("split", name, share, 0, 1)
        if share > 0 and round(share * n) == 0:
            raise ValueError(f"split: {name}={share} of {n} examples is none; wanted at least one, or 0")
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
    """How many examples of each class go to each part: within one of m s / n, with both sums exact.

    Each class hands out what rounding down left over, one to a part, first to the parts that still need most.
    It always comes out: so a 0-1 matrix is built from its row and column sums (Gale 1957; Ryser 1957).
    """
    exact = np.outer(class_sizes, part_sizes)  # times n
    counts, remainder = np.divmod(exact, class_sizes.sum())
    need = part_sizes - counts.sum(axis=0)
    for c, left in enumerate(class_sizes - counts.sum(axis=1)):
        chosen = np.lexsort((-remainder[c], -need))[:left]
        counts[c, chosen] += 1
        need[chosen] -= 1
    return counts
