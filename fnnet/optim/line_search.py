"""Line searches: how far to go along a direction (Nocedal & Wright 2006, chapter 3)."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import times

# step -> (value, slope): phi(a) = f(theta + a d) and phi'(a).
Phi: TypeAlias = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class Search(NamedTuple):
    """What a line search found."""

    step: jax.Array  # float[], how far to go along the direction; 0 if no better point was found
    value: jax.Array  # float[], phi(step)
    found: jax.Array  # bool[], the conditions hold at step
    evaluations: Evaluations  # of phi: values, and gradients if slopes were used


# (phi, phi(0), phi'(0), first step to try) -> Search
LineSearch: TypeAlias = Callable[[Phi, jax.Array, jax.Array, Any], Search]


def dot(a: Any, b: Any) -> jax.Array:
    """The real part of the inner product of two trees, in float32 at least."""

    def of_leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.vdot(x.astype(dtype), y.astype(dtype), precision=jax.lax.Precision.HIGHEST).real

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, a, b)), jnp.zeros([], jnp.float32))


def scale_direction(step: chex.Numeric, direction: Any) -> Any:
    """step * direction in the dtypes of the direction; 0 if the step is 0, even if the direction is not finite."""
    return jax.tree.map(lambda d: jnp.where(step == 0, jnp.zeros_like(d), times(step, d)), direction)


def line_function(value_fn: Callable[[Any], jax.Array], params: Any, direction: Any) -> Phi:
    """The function of one number phi(a) = f(theta + a d), with phi'(a) = grad f(theta + a d).d."""

    def phi(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, grad = jax.value_and_grad(value_fn)(
            optax.apply_updates(params, scale_direction(step, direction))
        )
        return value, dot(jax.tree.map(jnp.conj, grad), direction)

    return phi


def backtracking(
    phi: Phi,
    value: chex.Numeric,
    slope: chex.Numeric,
    step: chex.Numeric = 1.0,
    *,
    c1: chex.Numeric = 1e-4,
    shrink: chex.Numeric = 0.5,
    max_evaluations: int = 30,
) -> Search:
    """Backtracking: shortens the step until it gives sufficient decrease (Armijo's condition).

        phi(a) <= phi(0) + c1 a phi'(0),   a = step, rho step, rho^2 step, ...

    Args:
        phi: step -> (value, slope); only the value is used.
        value: phi(0).
        slope: phi'(0). If it is not negative there is no decrease to find, and the step is 0.
        step: the first step to try.
        c1: required fraction of the decrease along the tangent, in [0, 1).
        shrink: rho, in [0, 1).
        max_evaluations: number of tries, at least 1. If none satisfies the condition, the step is 0.

    Returns:
        The step and its evaluations. A value that is not finite counts as no decrease.

    Baseline: the rule in NumPy, equal in float64; `optax.scale_by_backtracking_linesearch(decrease_factor=shrink)`.
    SciPy's `line_search_armijo` chooses the next step by interpolation instead.

    Raises:
        TypeError, ValueError: c1 or shrink is not in [0, 1); the step is negative; max_evaluations is not a positive
            int.

    Source: Nocedal & Wright 2006, "Numerical Optimization", algorithm 3.1; Armijo 1966.

    Example:
        >>> found = fn.optim.backtracking(lambda a: ((a - 0.2) ** 2, 2 * (a - 0.2)), 0.04, -0.4)
        >>> float(found.step), bool(found.found), int(found.evaluations.values)
        (0.25, True, 3)
    """
    check.number("backtracking", "step", step, "[0, inf)")
    check.number("backtracking", "c1", c1, "[0, 1)")
    check.number("backtracking", "shrink", shrink, "[0, 1)")
    check.is_positive("backtracking", "max_evaluations", max_evaluations)
    value, slope, step = as_floats(value, slope, step)

    def enough(a: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.isfinite(new) & (new <= value + c1 * a * slope)

    def searching(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        a, new, tries = carry
        return (slope < 0) & ~enough(a, new) & (tries < max_evaluations)

    def shorter(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        a, _, tries = carry
        a = jnp.where(tries == 0, a, shrink * a).astype(step.dtype)
        return a, jnp.asarray(phi(a)[0]).astype(step.dtype), tries + 1

    start = (step, jnp.full_like(value, jnp.inf), jnp.zeros([], jnp.int32))
    a, new, tries = jax.lax.while_loop(searching, shorter, start)
    found = enough(a, new)
    evaluations = no_evaluations().plus(values=tries)
    return Search(jnp.where(found, a, 0), jnp.where(found, new, value), found, evaluations)


class Point(NamedTuple):
    """phi at a step."""

    step: jax.Array  # float[]
    value: jax.Array  # float[]
    slope: jax.Array  # float[]


class Bracket(NamedTuple):
    """The search of `wolfe` so far."""

    low: Point  # the better end of the bracket
    high: Point  # the other end, at infinity until there is one
    before: Point  # the end that was replaced last
    last: Point  # the last one tried
    best: Point  # the lowest with sufficient decrease; step 0 if there is none
    tries: jax.Array  # int32[]
    found: jax.Array  # bool[], last satisfies the conditions
    stop: jax.Array  # bool[], nothing left to search


def wolfe(
    phi: Phi,
    value: chex.Numeric,
    slope: chex.Numeric,
    step: chex.Numeric = 1.0,
    *,
    c1: chex.Numeric = 1e-4,
    c2: chex.Numeric = 0.9,
    grow: chex.Numeric = 2.0,
    max_step: chex.Numeric = float("inf"),
    approximate: chex.Numeric | None = 1e-6,
    precision: chex.Numeric = 1e-5,
    max_evaluations: int = 20,
) -> Search:
    """Finds a step that satisfies the strong Wolfe conditions: bracketing, then zoom.

        phi(a) <= phi(0) + c1 a phi'(0)         sufficient decrease
        |phi'(a)| <= c2 |phi'(0)|               the slope has flattened

    Steps grow until two of them, `low` and `high`, bracket a step that satisfies the conditions (algorithm 3.5). low
    is the best so far, and phi falls from it towards high. The next try is the minimum of the cubic through low, its
    slope, high and the point before them. If that is outside the bracket or within 20 % of its ends, it is the
    minimum of the quadratic; if that is outside or within 10 %, it is the middle (algorithm 3.6). Bracketing is
    treated as a zoom with high at infinity, so that one loop does both.

    Args:
        phi: step -> (value, slope).
        value: phi(0).
        slope: phi'(0). If it is not negative there is no decrease to find, and the step is 0.
        step: the first step to try.
        c1: in [0, 1).
        c2: in [0, 1); 0.9 suits quasi-Newton methods, 0.1 conjugate gradients.
        grow: how many times longer the next step is while bracketing, at least 1.
        max_step: upper bound of the step. It is taken if phi still falls there.
        approximate: near a minimum, rounding hides the decrease of phi, but not that of its slope. If phi(a) is no
            more than phi(0) + approximate |phi(0)|, then phi'(a) <= (2 c1 - 1) phi'(0) counts as sufficient decrease
            (Hager & Zhang 2006, as in optax), and while values are that close, the slopes alone decide the bracket.
            None to disable this, as in Nocedal & Wright and SciPy.
        precision: the search ends when the bracket is this narrow and a step with sufficient decrease is known.
        max_evaluations: number of tries, at least 1. After that, the best step with sufficient decrease is taken; if
            there is none, the step is 0.

    Returns:
        The step and its evaluations. A step where phi is not finite counts as too long.

    Baseline: `scipy.optimize.line_search`, the same step in float64 with approximate=None and precision=0, except if
    high is left of low, where SciPy's limits of 20 and 10 % do not hold; and `optax.scale_by_zoom_linesearch`, the
    same step with the same arguments if the search succeeds.

    Raises:
        TypeError, ValueError: c1 or c2 is not in [0, 1); grow is less than 1; the step, max_step, approximate or
            precision is negative; max_evaluations is not a positive int.

    Source: Nocedal & Wright 2006, "Numerical Optimization", algorithms 3.5 and 3.6.

    Example:
        >>> found = fn.optim.wolfe(lambda a: ((a - 3) ** 2, 2 * (a - 3)), 9.0, -6.0, c2=0.1)
        >>> f"{found.step:.4f}", bool(found.found), int(found.evaluations.values)
        ('3.0000', True, 4)
    """
    check.number("wolfe", "step", step, "[0, inf)")
    check.number("wolfe", "c1", c1, "[0, 1)")
    check.number("wolfe", "c2", c2, "[0, 1)")
    check.number("wolfe", "grow", grow, "[1, inf)")
    check.number("wolfe", "max_step", max_step, "(0, inf]")
    check.number("wolfe", "precision", precision, "[0, inf)")
    if approximate is not None:
        check.number("wolfe", "approximate", approximate, "[0, inf)")
    check.is_positive("wolfe", "max_evaluations", max_evaluations)
    value, slope, step = as_floats(value, slope, step)
    start = Point(jnp.zeros_like(step), value, slope)
    nowhere = Point(*(jnp.full_like(value, a) for a in (jnp.inf, jnp.inf, 0)))

    def searching(now: Bracket) -> jax.Array:
        return (slope < 0) & ~now.found & ~now.stop & (now.tries < max_evaluations)

    def search(now: Bracket) -> Bracket:
        low, high = now.low, now.high
        longer = jnp.minimum(jnp.where(now.tries == 0, step, grow * low.step), max_step)
        a = jnp.where(jnp.isinf(high.step), longer, interpolate(low, high, now.before)).astype(step.dtype)
        new_value, new_slope = (jnp.asarray(x).astype(step.dtype) for x in phi(a))
        finite = jnp.isfinite(new_value) & jnp.isfinite(new_slope)
        new = Point(a, jnp.where(finite, new_value, jnp.inf), jnp.where(finite, new_slope, 0))

        enough = decrease = finite & (new.value <= value + c1 * a * slope)
        rises = (new.value >= low.value) & (now.tries > 0)
        if approximate is not None:
            rounding = approximate * jnp.abs(value)
            enough |= (new.value <= value + rounding) & (new.slope <= (2 * c1 - 1) * slope)
            rises &= jnp.abs(new.value - value) > rounding  # otherwise the slopes alone decide
        found = enough & (jnp.abs(new.slope) <= c2 * jnp.abs(slope))

        too_far = ~enough | rises
        turned = ~too_far & (new.slope * jnp.sign(high.step - low.step) >= 0)
        best = select_point(decrease & (new.value <= now.best.value), new, now.best)
        narrow = jnp.abs(high.step - low.step) <= precision
        longest = (a >= max_step) & jnp.isinf(high.step) & ~too_far & ~turned
        return Bracket(
            low=select_point(too_far, low, new),
            high=select_point(too_far, new, select_point(turned, low, high)),
            before=select_point(too_far | turned, high, low),
            last=new,
            best=best,
            tries=now.tries + 1,
            found=found,
            stop=longest | (narrow & (best.step > 0)),
        )

    no = jnp.zeros([], bool)
    end = jax.lax.while_loop(
        searching, search, Bracket(start, nowhere, nowhere, start, start, jnp.zeros([], jnp.int32), no, no)
    )
    taken = select_point(end.found, end.last, end.best)
    return Search(taken.step, taken.value, end.found, no_evaluations().plus(end.tries, end.tries))


def interpolate(low: Point, high: Point, before: Point) -> jax.Array:
    """The next step to try in a bracket: from a cubic, from a quadratic, or the middle. Values can be infinite."""
    width = jnp.abs(high.step - low.step)

    def inside(a: jax.Array, margin: float) -> jax.Array:
        left, right = jnp.minimum(low.step, high.step), jnp.maximum(low.step, high.step)
        return (a > left + margin * width) & (a < right - margin * width)  # False for NaN

    # p(x) = A x^3 + B x^2 + C x + low.value, x = a - low.step
    x1, x2 = high.step - low.step, before.step - low.step
    rise1, rise2 = (p.value - low.value - low.slope * x for p, x in ((high, x1), (before, x2)))
    divisor = jnp.square(x1 * x2) * (x1 - x2)
    A = (x2**2 * rise1 - x1**2 * rise2) / divisor
    B = (x1**3 * rise2 - x2**3 * rise1) / divisor
    cubic = low.step + (-B + jnp.sqrt(B**2 - 3 * A * low.slope)) / (3 * A)
    quadratic = low.step - low.slope / (2 * rise1 / x1**2)
    middle = (low.step + high.step) / 2
    return jnp.where(inside(cubic, 0.2), cubic, jnp.where(inside(quadratic, 0.1), quadratic, middle))


def select_point(condition: jax.Array, yes: Point, no: Point) -> Point:
    """The point `yes` where the condition is True, otherwise `no`."""
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)


def as_floats(*numbers: chex.Numeric) -> list[jax.Array]:
    """The numbers as arrays of one dtype, float32 at least, not weakly typed."""
    dtype = jnp.result_type(jnp.float32, *(jnp.asarray(n).dtype for n in numbers[:2]))
    return [jnp.asarray(n).astype(dtype) for n in numbers]
