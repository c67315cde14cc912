"""The contract of every optimizer: a drop-in for its optax twin. A line in `optim.TWINS` adds one."""

import inspect
import re
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from fnnet.optim import TWINS
from tests.arrays import at, close, each, equal, stack
from tests.optim.methods import OTHERS, PARTS

NAMES = list(TWINS)
RATE = 0.05
LOOPS = {"muon"}  # without jit, their loop would be compiled at each call


def params_of(dtype: Any = np.float32) -> dict[str, Any]:
    tree = {"a": {"w": [[1.0, -2.0], [0.5, 3.0]], "b": [0.1, 0.0]}, "c": 2.0}
    return jax.tree.map(lambda a: jnp.array(np.array(a, dtype)), tree, is_leaf=lambda a: isinstance(a, list))


def grads_of(params: Any) -> Any:
    """Gradients that depend on the params; in NumPy, unless params are tracers."""

    def of_leaf(p: Any) -> Any:
        xp = jnp if isinstance(p, jax.core.Tracer) else np
        p = xp.asarray(p)
        return jnp.asarray((xp.cos(3 * p) * p + 0.1).astype(p.dtype))

    return jax.tree.map(of_leaf, params)


def avals(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), tree)


def test_every_public_optimizer_is_tested() -> None:
    makers = {name for name in fn.optim.__all__ if inspect.isfunction(getattr(fn.optim, name))}
    twins = {getattr(twin.ours, "func", twin.ours).__name__ for twin in TWINS.values()}
    others = {getattr(make, "func", make).__name__ for make, _ in OTHERS.values()}
    assert makers == twins | others | PARTS


@pytest.mark.parametrize("name", [name for name in fn.optim.__all__ if hasattr(optax, name)])
def test_names_and_defaults_are_those_of_optax(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (fn.optim, optax))
    default = {p.name: p.default for p in theirs.values()}
    if name == "adadelta":
        assert default["learning_rate"] is None  # and ascends: the only default that is not optax's
        default["learning_rate"] = 1.0
    if name in ("nadam", "nadamw"):
        default.pop("nesterov")  # an accident of optax's functools.partial
    if name == "lbfgs":
        default.pop("linesearch")  # a transformation there, a function here
    assert {p: ours[p].default for p in default} == default
    positional = [p.name for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(positional)] == positional


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def make(self, name: str) -> optax.GradientTransformationExtraArgs:
        return TWINS[name].ours(learning_rate=RATE)

    def test_type(self, name: str) -> None:
        assert isinstance(self.make(name), optax.GradientTransformationExtraArgs)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_dtypes_and_state_are_stable(self, name: str, dtype: Any) -> None:
        params, rate = params_of(dtype), jnp.float32(RATE)  # an array, not weakly typed: as vmap passes it
        optimizer = TWINS[name].ours(learning_rate=rate)
        state = jax.eval_shape(optimizer.init, params)
        assert avals(optimizer.init(params)) == avals(state)
        updates, new_state = jax.eval_shape(lambda p, s: optimizer.update(grads_of(p), s, p), params, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        assert avals(new_state) == avals(state)

    def test_hyperparameters_may_be_arrays(self, name: str) -> None:
        """All numbers at once, in float32, with params in bfloat16: the state can still be a scan's carry."""
        signature = inspect.signature(TWINS[name].ours)
        numbers = {
            p.name: np.float32(p.default if isinstance(p.default, float) else RATE)
            for p in signature.parameters.values()
            if p.name == "learning_rate" or isinstance(p.default, float)
        }
        params, numbers = params_of(jnp.bfloat16), stack(numbers, numbers)

        def first(numbers: dict[str, jax.Array]) -> Any:
            return params, TWINS[name].ours(**numbers).init(params)

        @jax.jit
        @jax.vmap
        def step(numbers: dict[str, jax.Array], params: Any, state: Any, grads: Any) -> Any:
            updates, state = TWINS[name].ours(**numbers).update(grads, state, params)
            return optax.apply_updates(params, updates), state

        now = start = jax.vmap(first)(numbers)
        for _ in range(3):
            now = step(numbers, *now, grads_of(now[0]))
            chex.assert_trees_all_equal_shapes_and_dtypes(now, start)
        chex.assert_trees_all_equal_shapes_and_dtypes(at(now[0], 0), params)
        chex.assert_tree_all_finite(now[0])

    def test_compiles_once_equals_no_jit_and_descends(self, name: str) -> None:
        """200 steps down a convex bowl, of which the first is taken without jit, too."""
        traces = []
        optimizer, params = self.make(name), params_of()
        scale = {"a": {"w": np.array([[1, 4], [2, 3]], np.float32), "b": np.float32(2)}, "c": np.float32(4)}

        def bowl(params: Any) -> tuple[float, Any]:
            away = jax.tree.map(lambda p: np.asarray(p) - np.float32(1), params)
            value = sum(jax.tree.leaves(jax.tree.map(lambda s, d: float(np.sum(s * d**2)), scale, away)))
            return value, jax.tree.map(lambda s, d: 2 * s * d, scale, away)

        # Donated, as in a training loop: no two leaves may share a buffer.
        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, state: Any, grads: Any) -> Any:
            traces.append(1)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        first, grads = bowl(params)
        state = optimizer.init(params)
        updates, after = optimizer.update(grads, state, params)
        plain = each(np.copy, (optax.apply_updates(params, updates), after))
        now = (params, state)
        for i in range(200):
            now = step(*now, bowl(now[0])[1])
            if i == 0:
                close(now, plain, rtol=1e-5, atol=1e-7)
        assert len(traces) == 1
        assert bowl(now[0])[0] < first

    def test_compiles_to_what_optax_compiles_to(self, name: str) -> None:
        """The same instructions, operations and bytes, so that both take the same time, however noisy the clock."""
        params = {"w": jnp.ones((300, 200)), "b": jnp.ones(200)}
        programs, conditions = [], []
        for make in TWINS[name]:
            optimizer = make(learning_rate=1e-3)

            def step(grads: Any, state: Any, params: Any, optimizer: Any = optimizer) -> Any:
                updates, state = optimizer.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            program = jax.jit(step).lower(params, optimizer.init(params), params).compile()
            instructions = sorted(re.findall(r"= \S+ ([a-z\-]+)\(", program.as_text()))
            conditions.append(program.as_text().count(" conditional("))
            cost = program.cost_analysis()
            programs.append((instructions, cost["flops"], cost["bytes accessed"]))
        assert len(programs[0][0]) > 10
        if "schedule_free" in name or name == "adafactor":  # without a NaN that is selected away
            assert len(programs[0][0]) < len(programs[1][0])
        elif name in ("lars", "lamb", "muon"):  # the other branch computes the norms if a square overflowed
            assert conditions == [1, 0]
        elif name in ("prodigy", "radam"):  # select other numbers where optax's are NaN: scalar operations
            assert programs[0][1] <= programs[1][1] + {"prodigy": 4, "radam": 2}[name]
        else:
            assert programs[0] == programs[1]

    def test_unknown_extra_arguments_pass(self, name: str) -> None:
        optimizer, params = self.make(name), params_of()
        state, grads = optimizer.init(params), grads_of(params)
        with_extra = optimizer.update(
            grads, state, params, value=1.0, grad=grads, value_fn=jnp.sum, nobody_knows=3
        )
        equal(with_extra, optimizer.update(grads, state, params))

    @pytest.mark.parametrize("params", [{}, jnp.zeros((0, 3)), (jnp.ones(2), None)])
    def test_odd_trees(self, name: str, params: Any) -> None:
        optimizer = self.make(name)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)

    def test_map_params(self, name: str) -> None:
        """optax finds the copies of the params in the state."""
        params = params_of()
        for make in TWINS[name]:
            optimizer = make(learning_rate=RATE)
            before = optimizer.init(params)
            after = optax.tree.map_params(optimizer, lambda p: p + 1, before)
            moved = jax.tree.leaves(each(lambda a, b: np.round(a - b, 6), after, before))
            assert all(np.all(np.isin(m, (0, 1))) for m in moved)
            copies = [m for m in moved if np.all(m == 1)]
            if (
                name == "muon"
            ):  # m of each, v of the two that are not matrices; optax has its coefficients, too
                assert len(copies) == 5
                continue
            assert len(copies) % len(jax.tree.leaves(params)) == 0
            # Floats in the state that are not copies: r, d; the sum of weights, the largest rate, b1.
            numbers = {"prodigy": 2, "schedule_free_sgd": 3, "schedule_free_adamw": 3}.get(name, 0)
            floats = [a for a in jax.tree.leaves(before) if a.dtype == jnp.float32]
            assert len(copies) + numbers == len(floats)

    def test_first_update_equals_that_of_optax_without_jit(self, name: str) -> None:
        """Up to a rounding or two: optax compiles its bias correction even there."""
        params = params_of()
        ours, theirs = (make(learning_rate=RATE) for make in TWINS[name])
        first, second = (o.update(grads_of(params), o.init(params), params)[0] for o in (ours, theirs))
        close(first, second, rtol=5e-7)

    def test_complex_params(self, name: str) -> None:
        if name == "rprop":
            return  # its steps compare numbers, which complex ones do not allow: optax raises, too
        params = jnp.array([1.0 + 2.0j, -0.5j])
        ours, theirs = (make(learning_rate=RATE) for make in TWINS[name])
        first, second = (o.update(params, o.init(params), params)[0] for o in (ours, theirs))
        chex.assert_trees_all_close(first, second, rtol=1e-6)

    @pytest.mark.parametrize("bad", [-0.1, None, "0.1"])
    def test_bad_learning_rate(self, name: str, bad: Any) -> None:
        if name == "adafactor" and bad is None:
            return  # 1, in optax too
        with pytest.raises((ValueError, TypeError), match=r"learning_rate=.*wanted"):
            TWINS[name].ours(learning_rate=bad)

    def test_bad_share(self, name: str) -> None:
        shares = {"b1", "b2", "rho", "decay", "momentum"} & set(
            inspect.signature(TWINS[name].ours).parameters
        )
        for share in shares:
            with pytest.raises(ValueError, match=rf"{share}=1\.5, wanted in [\[(]0, 1\)"):
                TWINS[name].ours(learning_rate=RATE, **{share: 1.5})


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", NAMES)
class TestDropIn:
    """Inside optax's own wrappers, five steps beside the twin."""

    def both(self, name: str, wrap: Any, conditions: bool = False) -> None:
        """In float64, where what optax compiles and what it does not differ by less than the bound.

        Without jit, since all optimizers use nearly the same operations, each of which is compiled once; with
        conditions, which would be compiled at each call, both sides are one program.
        """

        def end(make: Any, params: Any) -> Any:
            optimizer = optax.with_extra_args_support(wrap(make))
            state = optimizer.init(params)

            def step(now: Any, _: Any = None) -> Any:
                params, state = now
                updates, state = optimizer.update(grads_of(params), state, params)
                return (optax.apply_updates(params, updates), state), None

            if conditions:
                return jax.lax.scan(step, (params, state), length=5)[0][0]
            now = params, state
            for _ in range(5):
                now, _ = step(now)
            chex.assert_trees_all_equal_shapes_and_dtypes(now, (params, state))  # the carry of a scan
            return now[0]

        start = params_of(np.float64)
        if conditions:
            ends = jax.jit(lambda params: [end(make, params) for make in TWINS[name]])(start)
        else:
            with jax.disable_jit(name in LOOPS):
                ends = [end(make, start) for make in TWINS[name]]
        close(*ends, rtol=1e-6, atol=1e-7)
        with pytest.raises(AssertionError):  # it did move
            close(ends[0], start, rtol=1e-6)

    def test_chain(self, name: str) -> None:
        self.both(
            name,
            lambda make: optax.chain(
                optax.clip_by_global_norm(0.5), make(learning_rate=RATE), optax.scale(0.5)
            ),
        )

    def test_masked(self, name: str) -> None:
        self.both(
            name,
            lambda make: optax.masked(make(learning_rate=RATE), {"a": {"w": True, "b": False}, "c": True}),
        )

    def test_multi_transform(self, name: str) -> None:
        labels = {"a": "one", "c": "two"}
        self.both(
            name,
            lambda make: optax.partition(
                {"one": make(learning_rate=RATE), "two": make(learning_rate=2 * RATE)}, labels
            ),
        )

    @pytest.mark.slow
    def test_multi_steps(self, name: str) -> None:
        self.both(
            name,
            lambda make: optax.MultiSteps(make(learning_rate=RATE), 2).gradient_transformation(),
            conditions=True,
        )

    @pytest.mark.slow
    def test_inject_hyperparams(self, name: str) -> None:
        static = ("min_dim_size_to_factor",) if name == "adafactor" else ()  # a shape
        self.both(
            name,
            lambda make: optax.inject_hyperparams(make, static)(
                learning_rate=optax.linear_schedule(RATE, 0.0, 4)
            ),
        )

    @pytest.mark.slow
    def test_apply_if_finite(self, name: str) -> None:
        self.both(name, lambda make: optax.apply_if_finite(make(learning_rate=RATE), 3), conditions=True)


def test_adadelta_of_optax_ascends_and_ours_does_not() -> None:
    params = jnp.array([1.0])
    theirs, ours = optax.adadelta(), fn.optim.adadelta()
    assert theirs.update(params, theirs.init(params), params)[0] > 0
    assert ours.update(params, ours.init(params), params)[0] < 0


@pytest.mark.parametrize("make", [fn.optim.adamw, partial(fn.optim.adadelta, weight_decay=0.1)])
def test_weight_decay_needs_params(make: Any) -> None:
    optimizer = make(learning_rate=RATE)
    with pytest.raises(ValueError, match="weight decay needs the params"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
