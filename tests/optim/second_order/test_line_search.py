"""Line searches beside the book's algorithms in NumPy, SciPy and optax; gradient descent with them."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import fnnet as fn
from fnnet.optim import Search, backtracking, wolfe
from tests.arrays import at, close, each, equal
from tests.optim.second_order.logistic import descend

pytestmark = pytest.mark.usefixtures("float64")


def phi(c: Any, a: Any, xp: Any = np) -> Any:
    """The value along a line through a hilly bowl."""
    bowl = 0.05 * abs(c[0]) * (a * xp.exp(c[4])) ** 4 + c[1] * a**2
    return bowl + c[2] * xp.sin(3 * c[3] * a) - 2 * abs(c[5]) * a


def slope(c: Any, a: Any) -> Any:
    bowl = 0.2 * abs(c[0]) * a**3 * np.exp(c[4]) ** 4 + 2 * c[1] * a
    return bowl + 3 * c[2] * c[3] * np.cos(3 * c[3] * a) - 2 * abs(c[5])


def lines() -> np.ndarray:
    """Constants of about eighty lines that fall at 0."""
    c = np.random.default_rng(0).normal(size=(100, 6))
    return c[np.array([slope(row, 0.0) for row in c]) < -0.1]


def search(rule: Any, c: Any, **arguments: Any) -> Any:
    """The search along one line, in JAX."""
    along = jax.value_and_grad(lambda a: phi(c, a, jnp))
    return rule(along, *along(jnp.zeros(())), 1.0, **arguments)


def the_book(c: Any, c2: float, signed: bool) -> tuple[float, int]:
    """Algorithms 3.5 and 3.6 of Nocedal & Wright: (step, values used).

    signed: the limits inside a bracket change sign if high is left of low, as in SciPy.
    """
    f, g, c1 = partial(phi, c), partial(slope, c), 1e-4
    low, high, before, a, tries = 0.0, None, None, 1.0, 0
    while tries < 40:
        tries += 1
        if f(a) > f(0.0) + c1 * a * g(0.0) or (tries > 1 and f(a) >= f(low)):
            high, before = a, high
        elif abs(g(a)) <= -c2 * g(0.0):
            return a, tries
        elif g(a) * (np.inf if high is None else high - low) >= 0:
            low, high, before = a, low, high
        else:
            low, before = a, low if high is not None else None
        a = 2 * low if high is None else inside(f, g, low, high, before, signed)
    raise AssertionError("no step")


def inside(f: Any, g: Any, low: float, high: float, before: float | None, signed: bool) -> float:
    width = high - low if signed else abs(high - low)
    left, right = min(low, high), max(low, high)
    points = [high] if before is None else [high, before]
    # Fits of the two polynomials through the points, independent of the formulas under test.
    for degree, margin in ((3, 0.2), (2, 0.1)):
        if degree == len(points) + 1 or degree == 2:
            x = np.array(points[: degree - 1]) - low
            rise = np.array([f(p) for p in points[: degree - 1]]) - f(low) - g(low) * x
            k = np.linalg.solve(np.stack([x**n for n in range(2, degree + 1)], axis=1), rise)
            inner = k[0] ** 2 - 3 * k[1] * g(low) if degree == 3 else 0
            if inner >= 0:
                shift = (-k[0] + np.sqrt(inner)) / (3 * k[1]) if degree == 3 else -g(low) / (2 * k[0])
                if left + margin * width <= low + shift <= right - margin * width:
                    return low + shift
    return (low + high) / 2


def test_wolfe_equals_the_book_optax_and_scipy() -> None:
    """Steps and counts; and the conditions hold, with the default arguments too."""
    cs = np.concatenate([lines(), lines()])
    c2s = np.repeat([0.9, 0.1], len(cs) // 2)

    def of_optax(c: jax.Array, c2: jax.Array) -> Any:
        zoom = optax.scale_by_zoom_linesearch(
            40, curv_rtol=c2, approx_dec_rtol=None, stepsize_precision=0.0, initial_guess_strategy="one"
        )
        f, at = (lambda x: phi(c, x, jnp)), jnp.zeros(())
        value, grad = jax.value_and_grad(f)(at)
        step, state = zoom.update(jnp.ones(()), zoom.init(at), at, value=value, grad=grad, value_fn=f)
        return step, state.info.num_linesearch_steps

    def all_three(c: jax.Array, c2: jax.Array) -> Any:
        book = search(wolfe, c, c2=c2, approximate=None, precision=0.0, max_evaluations=40)
        return book, search(wolfe, c, c2=c2), of_optax(c, c2)

    found, usual, (steps, tries) = jax.jit(jax.vmap(all_three))(cs, c2s)
    assert np.all(found.found & usual.found)
    assert len(set(np.asarray(tries).tolist())) > 5  # short searches and long ones
    np.testing.assert_allclose(found.step, steps, rtol=1e-12)
    np.testing.assert_array_equal(found.evaluations.values, tries)
    np.testing.assert_array_equal(found.evaluations.gradients, tries)

    differ = 0
    for i, (c, c2) in enumerate(zip(cs, c2s, strict=True)):
        step, count = the_book(c, c2, signed=False)
        np.testing.assert_allclose(found.step[i], step, rtol=1e-6)
        assert found.evaluations.values[i] == count
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy's interpolation overflows where it then bisects
            theirs = scipy.optimize.line_search(
                lambda x, c=c: phi(c, x[0]),
                lambda x, c=c: np.array([slope(c, x[0])]),
                np.zeros(1),
                np.ones(1),
                c2=c2,
                maxiter=40,
            )[0]
        np.testing.assert_allclose(theirs, the_book(c, c2, signed=True)[0], rtol=1e-6)
        differ += not np.isclose(theirs, step, rtol=1e-6, atol=0)
        for a, value in ((found.step[i], found.value[i]), (usual.step[i], usual.value[i])):
            assert phi(c, a) <= phi(c, 0) + 1e-4 * a * slope(c, 0) + 1e-12
            assert abs(slope(c, a)) <= -c2 * slope(c, 0) + 1e-12
            np.testing.assert_allclose(value, phi(c, a), rtol=1e-10)
    assert 0 < differ < 0.2 * len(cs)  # only the sign differs, and it rarely matters


def test_backtracking_equals_the_rule() -> None:
    cs = lines()
    found = jax.jit(jax.vmap(partial(search, backtracking, c1=0.3, shrink=0.6)))(cs)
    longest = 0
    for c, ours, tries in zip(cs, found.step, found.evaluations.values, strict=True):
        a, count = 1.0, 1
        while phi(c, a) > phi(c, 0.0) + 0.3 * a * slope(c, 0.0):
            a, count = 0.6 * a, count + 1
        assert (float(ours), int(tries)) == (a, count)
        longest = max(longest, count)
    assert longest > 5
    assert not np.any(found.evaluations.gradients)


@pytest.mark.parametrize("rule", [backtracking, wolfe])
class TestEdges:
    def test_not_finite_is_too_far(self, rule: Any) -> None:
        """A barrier: beyond 0.01 the value is NaN, or it is infinite."""

        def searches(beyond: jax.Array) -> Search:
            def barrier(a: jax.Array) -> tuple[jax.Array, jax.Array]:
                inner = 1 - 100 * a
                value = jnp.where(inner > 0, -jnp.log(jnp.abs(inner)) - 200 * a, beyond)
                return value, 100 / inner - 200

            return rule(barrier, 0.0, -100.0)

        found = jax.jit(jax.vmap(searches))(jnp.array([jnp.nan, jnp.inf, -jnp.inf]))
        assert np.all(found.found)
        assert np.all((found.step > 1e-3) & (found.step < 0.01))

    def test_no_step(self, rule: Any) -> None:
        """Only NaN; NaN at 0; uphill; level; a slope that says down where there is no descent."""
        nan, tries = jnp.nan, jnp.zeros(5)
        starts = (jnp.array([0.0, nan, 0.0, 0.0, 0.0]), jnp.array([-1.0, nan, 1.0, 0.0, -1.0]))

        def searches(value: jax.Array, slope: jax.Array, at: jax.Array) -> Search:
            return rule(lambda a: (jnp.where(at == 0, nan, a), jnp.ones_like(a)), value, slope)

        found = jax.jit(jax.vmap(searches))(*starts, jnp.arange(5) + tries)
        assert not np.any(found.found)
        assert not np.any(found.step)
        np.testing.assert_array_equal(found.value, starts[0])
        most = 30 if rule is backtracking else 20
        np.testing.assert_array_equal(found.evaluations.values, [most, 0, 0, 0, most])

    def test_dtypes(self, rule: Any) -> None:
        for dtype in (jnp.bfloat16, jnp.float32):
            value, slope = (jnp.asarray(np.array(number, dtype)) for number in (1, -2))
            with jax.disable_jit():  # no compiled loop
                found = rule(lambda a: (jnp.square(a - 1), 2 * (a - 1)), value, slope)
            assert (found.step.dtype, found.value.dtype) == (jnp.float32, jnp.float32)
            assert found.step == 1

    def test_bad_arguments(self, rule: Any) -> None:
        name = rule.__name__
        with pytest.raises(ValueError, match=rf"{name}: c1=1\.5, wanted in \[0, 1\)"):
            rule(jnp.square, 1.0, -1.0, c1=1.5)
        with pytest.raises(ValueError, match=f"{name}: max_evaluations=0, wanted at least 1"):
            rule(jnp.square, 1.0, -1.0, max_evaluations=0)
        other = {"c2": 1.0} if rule is wolfe else {"shrink": 1.0}
        with pytest.raises(ValueError, match=rf"{next(iter(other))}=1\.0, wanted in \[0, 1\)"):
            rule(jnp.square, 1.0, -1.0, **other)


def test_growth_is_checked() -> None:
    with pytest.raises(ValueError, match=r"wolfe: grow=0\.5, wanted at least 1"):
        wolfe(jnp.square, 1.0, -1.0, grow=0.5)


def test_a_line_without_end() -> None:
    with jax.disable_jit():
        found = wolfe(lambda a: (-a, -jnp.ones_like(a)), 0.0, -1.0)
        assert (float(found.step), bool(found.found)) == (2.0**19, False)
        found = wolfe(lambda a: (-a, -jnp.ones_like(a)), 0.0, -1.0, max_step=3.0)
    assert (float(found.step), bool(found.found), int(found.evaluations.values)) == (3.0, False, 3)


def test_rounding_hides_the_decrease() -> None:
    """The values along the line are all equal in float32; the slope leads to the minimum at 5."""

    def line(a: jax.Array) -> tuple[jax.Array, jax.Array]:
        return 1e6 + 1e-3 * jnp.square(a - 5), 2e-3 * (a - 5)

    value, slope = (jnp.asarray(x, jnp.float32) for x in line(np.zeros(())))
    with jax.disable_jit():
        found = wolfe(lambda a: line(a.astype(jnp.float32)), value, slope, c2=0.05)
        plain = wolfe(line, value, slope, c2=0.05, approximate=None)
    assert found.found
    assert abs(found.step - 5) <= 0.25
    assert not plain.found


def bowl(theta: Any) -> jax.Array:
    """Rosenbrock's function of a tree."""
    x, y = theta["x"], theta["y"]
    return jnp.square(1 - x) + 100 * jnp.square(y - jnp.square(x))


def begin(dtype: Any = jnp.float64) -> dict[str, jax.Array]:
    return {"x": jnp.asarray(-1.2, dtype), "y": jnp.asarray(1.0, dtype)}


class TestGradientDescent:
    def test_equals_optax_with_armijo(self) -> None:
        theirs = optax.chain(
            optax.sgd(1.0),
            optax.scale_by_backtracking_linesearch(
                29, decrease_factor=0.5, increase_factor=2.0, max_learning_rate=1e6
            ),
        )
        # Their first search tries 1 times the growth factor.
        a, state = descend(fn.optim.gradient_descent(first_step=2.0), bowl, begin(), 100)
        b, _ = descend(theirs, bowl, begin(), 100)
        close(a, b, rtol=1e-12)
        assert bowl(at(a, -1)) < 0.2 * bowl(begin())
        assert state.evaluations.gradients == 100
        assert state.evaluations.values > 200

    def test_equals_optax_with_wolfe(self) -> None:
        theirs = optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(20, curv_rtol=0.5))
        a, state = descend(fn.optim.gradient_descent(partial(wolfe, c2=0.5), grow=1.0), bowl, begin(), 30)
        b, _ = descend(theirs, bowl, begin(), 30)
        close(a, b, rtol=1e-9)  # the valley amplifies rounding errors
        assert state.evaluations.gradients == state.evaluations.values

    def test_equals_the_rule(self) -> None:
        """With your own search: half of Newton's step along the line."""

        def half(phi: Callable[..., Any], value: Any, slope: Any, step: Any) -> Search:
            _, after = phi(jnp.full_like(slope, 1e-3))
            a = -0.5 * slope / ((after - slope) / 1e-3)
            return Search(
                a, value, jnp.array(True), fn.optim.gradient_descent().init(a).evaluations.plus(1, 1)
            )

        hessian = np.diag([1.0, 3.0])
        f = lambda theta: 0.5 * theta @ jnp.asarray(hessian) @ theta  # noqa: E731
        thetas, state = descend(fn.optim.gradient_descent(half), f, jnp.array([1.0, -2.0]), 10)
        theta = np.array([1.0, -2.0])
        for ours in thetas:
            np.testing.assert_allclose(ours, theta, rtol=1e-9)
            g = hessian @ theta
            theta = theta - 0.5 * (g @ g) / (g @ hessian @ g) * g
        assert jax.tree.map(int, tuple(state.evaluations)) == (20, 20, 0)

    def test_stays_where_there_is_no_step(self) -> None:
        """The gradient is wrong: no step along it descends."""
        optimizer = fn.optim.gradient_descent(partial(backtracking, max_evaluations=4), first_step=3.0)
        theta = jnp.array([1.0, 2.0])
        with jax.disable_jit():
            updates, state = optimizer.update(
                -theta, optimizer.init(theta), theta, value=2.5, grad=-theta, value_fn=lambda t: 0.5 * t @ t
            )
        assert not np.any(updates)
        assert (float(state.alpha), int(state.evaluations.values)) == (3.0, 5)

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match="gradient_descent: first_step=-1, wanted at least 0"):
            fn.optim.gradient_descent(first_step=-1)
        with pytest.raises(ValueError, match=r"gradient_descent: grow=0\.5, wanted at least 1"):
            fn.optim.gradient_descent(grow=0.5)
        with pytest.raises(ValueError, match="gradient_descent: max_step=-1, wanted at least 0"):
            fn.optim.gradient_descent(max_step=-1)


MAKERS = [
    fn.optim.gradient_descent,
    fn.optim.conjugate_gradient,
    fn.optim.lbfgs,
    fn.optim.newton_cg,
]


@pytest.mark.parametrize("make", MAKERS)
class TestAllOfThem:
    def test_odd_trees(self, make: Any) -> None:
        for params in ({}, jnp.zeros((0, 3)), (jnp.ones(2), None)):

            def f(theta: Any) -> jax.Array:
                return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(theta)), jnp.zeros([]))

            thetas, _ = jax.eval_shape(lambda p, f=f: descend(make(), f, p, 2), params)
            assert jax.tree.structure(thetas) == jax.tree.structure(params)

    @pytest.mark.slow
    def test_mixed_dtypes_and_vmap(self, make: Any) -> None:
        """Three problems at once, of which one starts at its minimum and one is NaN."""
        start = {"a": np.array([[1.0, -2.0], [0.0, 0.0], [np.nan, 1.0]], jnp.bfloat16)}
        start["b"] = np.array([[3.0], [0.0], [1.0]], np.float32)

        def f(theta: Any) -> jax.Array:
            a = theta["a"].astype(jnp.float32)
            return jnp.sum(jnp.square(a) + jnp.broadcast_to(jnp.square(theta["b"]), (2,)))

        thetas, state = jax.vmap(lambda theta: descend(make(), f, theta, 6))(start)
        end = each(lambda t: t[:, -1], thetas)
        chex.assert_trees_all_equal_shapes_and_dtypes(end, start)
        assert f(jax.tree.map(jnp.asarray, at(end, 0))) < 0.1
        equal(at(end, slice(1, None)), at(start, slice(1, None)))
        assert state.evaluations.values[1] == 6  # the one at its minimum did not search
