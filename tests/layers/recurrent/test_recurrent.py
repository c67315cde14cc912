"""Recurrence over time beside loops in NumPy, sequence by sequence and step by step."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, like, normal, ones, zeros
from tests.oracle import agrees

KEY = jax.random.key(0)
LENGTHS = np.array([4, 0, 2], np.int32)


def params_for(cell, features, dtype=np.float32):
    """Params in the shapes of a cell's init, drawn in NumPy, which compiles nothing."""
    shapes = jax.eval_shape(cell.init, KEY, jax.ShapeDtypeStruct((1, features), np.float32))
    return like(shapes, dtype=dtype)


def counting(dtype=jnp.float32):
    """A cell by hand, for features of any shape. Its carry is a dict, and one part of that counts steps."""

    def step(params, carry, x):
        n = carry["n"] + 1
        w, u = (jnp.broadcast_to(params[name], x.shape) for name in "wu")
        h = jnp.tanh(w * x + u * carry["h"])
        count = n.astype(h.dtype).reshape(-1, *(1 for _ in x.shape[1:]))
        return {"h": h, "n": n}, h * count

    return fn.Cell(
        init=lambda key, x: {name: jnp.ones(x.shape[-1], x.dtype) for name in "wu"},
        initial_carry=lambda params, x: {
            "h": jnp.zeros(x.shape, x.dtype),
            "n": jnp.zeros(x.shape[0], jnp.int32),
        },
        step=step,
        name="counting",
    )


def count(params, h, x, lengths, reverse):
    """The same for each sequence: (last h, last n), all outputs, last output."""
    h, n, y, last = h.copy(), np.zeros(len(x)), np.zeros_like(x), np.zeros_like(h)
    for b, length in enumerate(lengths):
        for t in range(length)[:: -1 if reverse else 1]:
            n[b] += 1
            h[b] = np.tanh(params["w"] * x[b, t] + params["u"] * h[b])
            y[b, t] = last[b] = h[b] * n[b]
    return (h, n), y, last


TOTAL = fn.Cell(
    init=lambda key, x: {},
    initial_carry=lambda params, x: jnp.zeros(x.shape, x.dtype),
    step=lambda params, carry, x: (carry + x, carry + x),
    name="total",
)


@pytest.mark.slow
@settings(max_examples=6)
@example(3, 4, (2,), [4, 0, 2], False, True)
@example(3, 4, (2, 1, 3), [1, 4, 0], True, False)
@given(
    *(st.integers(0, 3), st.integers(0, 4), st.sampled_from([(1,), (2,), (2, 1, 3)])),
    *(st.none() | st.lists(st.integers(0, 4), min_size=3, max_size=3), st.booleans(), st.booleans()),
)
def test_unroll(batch, time, features, lengths, reverse, given_carry):
    """The padding is NaN or infinite: neither results nor gradients may see it."""
    lengths = None if lengths is None else [min(length, time) for length in lengths[:batch]]
    x = normal(batch, time, *features)
    for b, length in enumerate(lengths or ()):
        x[b, length:] = [np.nan, np.inf, -np.inf][b]
    params = {"w": normal(features[-1]), "u": normal(features[-1], seed=1)}
    h = normal(batch, *features)

    def f(params, h, x):
        carry = {"h": h, "n": np.zeros(batch, np.int32)} if given_carry else None
        known = None if lengths is None else np.array(lengths, np.uint8)
        run = partial(fn.unroll, counting(), params, x, carry=carry, lengths=known, reverse=reverse)
        (after, y), (_, last) = run(), run(outputs="last")
        return (after["h"], after["n"].astype(h.dtype)), y, last

    def reference(params, h, x):
        known = [time] * batch if lengths is None else lengths
        return count(params, h if given_carry else np.zeros_like(h), x, known, reverse)

    agrees(f, reference, params, h, x)


def rnn(params, x, lengths, activation=np.tanh, reverse=False):
    """The simple recurrent network: all outputs, last output."""
    n = len(params["w_h"])
    y, last = np.zeros((*x.shape[:2], n)), np.zeros((len(x), n))
    for b, length in enumerate(lengths):
        for t in range(length)[:: -1 if reverse else 1]:
            last[b] = activation(x[b, t] @ params["w_x"] + last[b] @ params["w_h"] + params["b"])
            y[b, t] = last[b]
    return y, last


@pytest.mark.slow
def test_bidirectional():
    """Both ways to merge, all outputs and the last; the padding is NaN."""
    cells = fn.simple_rnn_cell(2), fn.simple_rnn_cell(2, activation=jnp.sin)
    p = params_for(cells[0], 3, np.float64)
    params = {"forward": p, "backward": jax.tree.map(lambda a: 0.5 - a, p)}
    x = normal(3, 4, 3)
    for b, length in enumerate(LENGTHS):
        x[b, length:] = np.nan
    ways = [(merge, outputs) for merge in ("concatenate", "sum") for outputs in ("all", "last")]

    def f(params, x):
        layers = [fn.bidirectional(*cells, merge=merge, outputs=outputs) for merge, outputs in ways]
        y = [layer(params, {"x": x, "lengths": LENGTHS}) for layer in layers]
        return [a["x"] if isinstance(a, dict) else a for a in y]

    def reference(params, x):
        both = rnn(params["forward"], x, LENGTHS), rnn(params["backward"], x, LENGTHS, np.sin, True)
        (y, y_back), (last, last_back) = zip(*both, strict=True)
        pairs = (y, y_back), (last, last_back)
        return [np.concatenate(pair, -1) for pair in pairs] + [a + b for a, b in pairs]

    agrees(f, reference, params, x)


def test_stack_cells():
    """Three cells, of which the one in the middle has no params."""
    cell = fn.stack_cells(fn.simple_rnn_cell(2), TOTAL, fn.simple_rnn_cell(3))
    params = params_for(cell, 3, np.float64)
    assert list(params) == ["cell_0", "cell_2"]
    assert cell.name == "stack_cells"

    def f(params, x):
        (h_0, total, h_2), y = fn.unroll(cell, params, x, lengths=LENGTHS)
        return h_0, total, h_2, y

    def reference(params, x):
        y_0, h_0 = rnn(params["cell_0"], x, LENGTHS)
        real = np.arange(4)[None, :, None] < LENGTHS[:, None, None]
        y_1 = np.where(real, np.cumsum(y_0, axis=1), 0)
        y_2, h_2 = rnn(params["cell_2"], y_1, LENGTHS)
        return h_0, y_0.sum(axis=1), h_2, y_2

    agrees(f, reference, params, normal(3, 4, 3))


def test_each_cell_draws_by_itself():
    """One cell given, and its params are drawn twice."""
    cell = fn.simple_rnn_cell(3, w_h_init=fn.initializers.normal())
    layers = fn.bidirectional(cell), fn.recurrent(fn.stack_cells(cell, cell))
    inits = jax.jit(lambda x: [layer.init(KEY, x) for layer in layers])(zeros((1, 2, 3)))
    for (params, state), names in zip(inits, [("forward", "backward"), ("cell_0", "cell_1")], strict=True):
        assert state == {}
        assert set(params) == set(names)
        for entry in ("w_x", "w_h"):
            assert not np.any(params[names[0]][entry] == params[names[1]][entry])


@pytest.mark.parametrize("reverse", [False, True])
def test_in_parts_and_step_by_step(reverse):
    """The whole, two parts that hand over the carry, and steps in a loop and in a scan of one's own."""
    cell = fn.stack_cells(fn.lstm_cell(2), fn.gru_cell(3))
    params, x = params_for(cell, 3), normal(2, 5, 3).astype(np.float32)

    @jax.jit
    def ways(params, x):
        run = partial(fn.unroll, cell, params, reverse=reverse)
        whole = run(x)
        parts = (x[:, 2:], x[:, :2]) if reverse else (x[:, :2], x[:, 2:])
        between, first = run(parts[0])
        after, second = run(parts[1], carry=between)
        joined = after, jnp.concatenate([second, first] if reverse else [first, second], axis=1)

        carry, outputs = cell.initial_carry(params, x[:, 0]), [None] * 5
        for t in reversed(range(5)) if reverse else range(5):
            carry, outputs[t] = cell.step(params, carry, x[:, t])
        loop = carry, jnp.stack(outputs, axis=1)

        carry, y = jax.lax.scan(
            partial(cell.step, params),
            cell.initial_carry(params, x[:, 0]),
            x.swapaxes(0, 1),
            reverse=reverse,
        )
        return whole, joined, loop, (carry, y.swapaxes(0, 1))

    whole, *others = ways(params, x)
    for other in others:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), whole, other)


def test_no_steps_and_no_sequences():
    """No steps: an empty y, 0 as the last output, the carry as it was. No sequences: all is empty."""
    cell = fn.lstm_cell(2)
    params, carry = params_for(cell, 3), (normal(2, 2), normal(2, 2, seed=1))
    given_carry, y = fn.unroll(cell, params, np.zeros((2, 0, 3)), carry=carry)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), given_carry, carry)
    assert y.shape == (2, 0, 2)
    for lengths in (None, np.zeros(2, int)):
        after, last = fn.unroll(cell, params, np.zeros((2, 0, 3)), outputs="last", lengths=lengths)
        assert not any(leaf.any() for leaf in jax.tree.leaves((after, last)))
        assert last.shape == (2, 2)
    both = fn.bidirectional(cell)({"forward": params, "backward": params}, np.zeros((0, 5, 3)))
    assert both.shape == (0, 5, 4)


@pytest.mark.slow
def test_what_the_padding_holds_changes_nothing():
    """Exactly: results, gradients and second derivatives, of an LSTM backward."""
    cell = fn.lstm_cell(2)
    params, x, weights = params_for(cell, 3), normal(3, 4, 3).astype(np.float32), normal(3, 4, 2)
    layer = fn.recurrent(cell, reverse=True)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def everything(params, x):
        def loss(params, x):
            y = layer(params, {"x": x, "lengths": LENGTHS})["x"]
            return jnp.sum(weights * y), y

        def slope(params, x):
            first, y = jax.grad(loss, (0, 1), has_aux=True)(params, x)
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(first)), (first, y)

        return jax.grad(slope, (0, 1), has_aux=True)(params, x)

    def padded(value):
        real = np.arange(4)[None, :, None] < LENGTHS[:, None, None]
        return everything(params, np.where(real, x, np.float32(value)))

    wanted = padded(0)
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(wanted))
    for value in (np.nan, np.inf, 1e30):
        jax.tree.map(np.testing.assert_array_equal, padded(value), wanted)


def test_lengths_may_be_mapped_over():
    """With params and carries; beyond the range, which compiled code cannot refuse, they are clipped."""
    cell = counting()
    params = {"w": normal(2, 3), "u": normal(2, 3, seed=1)}
    x, h = normal(2, 3, 4, 3), normal(2, 3, 3)
    lengths = np.array([[4, 0, 2], [-3, 9, 1]])

    @jax.jit
    @jax.vmap
    def run(params, h, x, lengths):
        carry = {"h": h, "n": jnp.zeros(3, jnp.int32)}
        after, y = fn.unroll(cell, params, x, carry=carry, lengths=lengths)
        return (after["h"], after["n"]), y

    got = run(params, h, x, lengths)
    for i in range(2):
        one = jax.tree.map(lambda a, i=i: a[i], (params, h, x))
        wanted = count(*one, np.clip(lengths[i], 0, 4), False)[:2]
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-5, atol=1e-6)


def test_training_in_a_scan_with_remat():
    """Gradient steps in `lax.scan`, the layer under `jax.checkpoint`, beside a loop without either."""
    net = fn.serial(fn.simple_rnn(2, outputs="last"), fn.dense(1))
    params = {
        "simple_rnn_0": params_for(fn.simple_rnn_cell(2), 3),
        "dense_0": {"w": normal(2, 1).astype(np.float32), "b": np.zeros(1, np.float32)},
    }
    x = {"x": normal(3, 4, 3).astype(np.float32), "lengths": LENGTHS}
    target = normal(3, 1, seed=3).astype(np.float32)

    def step(net, params):
        loss, slope = jax.value_and_grad(lambda p: jnp.mean((net(p, x) - target) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, slope), loss

    trained, losses = jax.jit(
        lambda params: jax.lax.scan(lambda p, _: step(jax.checkpoint(net), p), params, length=4)
    )(params)
    assert np.all(np.diff(losses) < 0)
    one = jax.jit(partial(step, net))
    for loss in losses:
        params, wanted = one(params)
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), trained, params)


def test_a_cell_without_params():
    x = np.arange(6.0, dtype=np.float32).reshape(1, 3, 2)
    for layer, wanted in (
        (fn.recurrent(TOTAL), np.cumsum(x, axis=1)),
        (
            fn.bidirectional(TOTAL, merge="sum"),
            np.cumsum(x, axis=1) + np.cumsum(x[:, ::-1], axis=1)[:, ::-1],
        ),
        (fn.recurrent(fn.stack_cells(TOTAL, TOTAL)), np.cumsum(np.cumsum(x, axis=1), axis=1)),
    ):
        assert layer.init(KEY, x) == ({}, {})
        np.testing.assert_array_equal(layer({}, x), wanted)
    mixed = fn.bidirectional(TOTAL, counting())
    params, _ = jax.jit(mixed.init)(KEY, x)
    assert list(params) == ["backward"]
    assert mixed(params, x).shape == (1, 3, 4)
    for layer in (mixed, fn.recurrent(fn.stack_cells(TOTAL, TOTAL))):
        with pytest.raises(ValueError, match=r"params has \['nobody'\], wanted \[.*\]; pass the params that"):
            layer({"nobody": x}, x)


@pytest.mark.parametrize("make", [fn.recurrent, fn.bidirectional])
def test_an_array_or_a_dict(make):
    """A dict comes out where one went in; None for lengths is none; a misspelt entry raises."""
    x = np.ones((2, 3, 1), np.float32)
    layer, last = make(TOTAL), make(TOTAL, outputs="last")
    given_x = {"x": x, "lengths": None}
    bare, out, shorter, end = jax.jit(
        lambda x: (
            layer({}, x),
            layer({}, {**given_x, "x": x}),
            layer({}, {"x": x, "lengths": np.array([3, 1])}),
            last({}, {"x": x, "lengths": np.array([3, 1])}),
        )
    )(x)
    assert isinstance(bare, jax.Array)
    assert set(out) == set(given_x)
    np.testing.assert_array_equal(out["x"], bare)
    with pytest.raises(ValueError, match=r"wanted an array or a dict with 'x' and 'lengths' alone"):
        layer({}, {"x": x, "length": np.array([3, 1])})
    np.testing.assert_array_equal(shorter["x"][:, :, 0], [[1, 2, 3], [1, 0, 0]])
    wanted = [[3], [1]] if make is fn.recurrent else [[3, 3], [1, 1]]
    np.testing.assert_array_equal(end, wanted)
    assert layer.init(KEY, {"x": x, "lengths": jax.ShapeDtypeStruct((2,), jnp.int32)}) == ({}, {})


def test_numpy_arrays_in_double_precision():
    """They become float32, without a warning, as in any function of JAX."""
    cell, x = fn.simple_rnn_cell(2), np.ones((1, 2, 3))
    for layer in (fn.recurrent(cell), fn.bidirectional(cell)):
        params, _ = jax.eval_shape(partial(layer.init, x=x), KEY)
        assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
        assert jax.eval_shape(lambda p, layer=layer: layer(p, x), params).dtype == jnp.float32


def test_dicts_through_a_network():
    net = fn.serial(fn.bidirectional(TOTAL), fn.recurrent(TOTAL, outputs="last"), fn.dense(2))
    x = {"x": ones((2, 3, 1)), "lengths": array([3, 1])}
    params, _ = jax.eval_shape(net.init, KEY, x)
    assert list(params) == ["dense_0"]
    assert jax.eval_shape(net, params, x).shape == (2, 2)


NO_CELL = "is not a Cell, wanted one, such as lstm_cell"


def test_what_is_no_cell():
    cell, layer = fn.gru_cell(2), fn.gru(2)
    for make in (fn.recurrent, fn.bidirectional, partial(fn.bidirectional, cell), fn.stack_cells):
        for wrong in (layer, fn.lstm_cell, 2):
            name = getattr(make, "func", make).__name__
            with pytest.raises(TypeError, match=f"{name}: .* {NO_CELL}"):
                make(wrong)
    with pytest.raises(TypeError, match=rf"unroll: gru\(2\) {NO_CELL}.* is a layer already"):
        fn.unroll(layer, {}, ones((1, 2, 3)))
    with pytest.raises(ValueError, match="stack_cells: no cells, wanted at least one"):
        fn.stack_cells()


def test_what_is_no_layer():
    with pytest.raises(
        TypeError,
        match=r"a layer is a fnnet.Layer or .*, got gru_cell\(2\); write recurrent\(gru_cell",
    ):
        fn.serial(fn.gru_cell(2))
    with pytest.raises(TypeError, match=r"gru: features=.*, wanted a positive int"):
        fn.serial(fn.gru_cell).init(KEY, ones((1, 2, 3)))
    with pytest.raises(TypeError, match="got gru, a function that makes a layer; wanted a layer"):
        fn.serial(fn.gru)


def test_unknown_arguments():
    cell = fn.gru_cell(2)
    for make in (fn.recurrent, fn.bidirectional):
        with pytest.raises(
            ValueError, match=f"{make.__name__}: outputs='first', wanted one of 'all', 'last'"
        ):
            make(cell, outputs="first")
    with pytest.raises(ValueError, match="gru: outputs='first', wanted one of 'all', 'last'"):
        fn.unroll(cell, {}, ones((1, 2, 3)), outputs="first")
    with pytest.raises(ValueError, match="bidirectional: merge='mul', wanted one of 'concatenate', 'sum'"):
        fn.bidirectional(cell, merge="mul")


def said(caught):
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


@pytest.mark.parametrize("make", [fn.recurrent, fn.bidirectional])
def test_wrong_inputs(make):
    layer, x = make(TOTAL), ones((2, 3, 4))
    wrong = [
        (x[0], ValueError, "total: input is float32[3,4], wanted (batch, time, features)"),
        (x.astype(np.int32), TypeError, "total: input is int32[2,3,4], wanted floating point"),
        ([1.0], TypeError, "total: input is (1.0), wanted one array"),
        (
            {"x": x, "lengths": [3, 1]},
            TypeError,
            "total: lengths is (3, 1), wanted an array of integers",
        ),
        (
            {"x": x, "lengths": ones(2)},
            TypeError,
            "total: lengths is float32[2], wanted an array of integers",
        ),
        (
            {"x": x, "lengths": ones(2, bool)},
            TypeError,
            "total: lengths is bool[2], wanted an array of integers",
        ),
        (
            {"x": x, "lengths": ones((2, 1), int)},
            ValueError,
            "total: input is float32[2,3,4] and lengths int32[2,1], wanted one length for each",
        ),
        (
            {"x": x, "lengths": ones(3, int)},
            ValueError,
            "total: input is float32[2,3,4] and lengths int32[3], wanted one length for each sequence, (2,)",
        ),
    ]
    for given_x, error, message in wrong:
        for use in (partial(layer.init, KEY), partial(layer, {})):
            with pytest.raises(error) as caught:
                use(given_x)
            assert message in said(caught)
            assert f"in {make.__name__}(total), input " in said(caught)
    for outside in (4, -1):
        with pytest.raises(ValueError) as caught:
            layer({}, {"x": x, "lengths": np.array([outside, 1])})
        assert f"total: lengths has [{outside}], wanted 0 to 3, the steps of float32[2,3,4]" in said(caught)
    for use in (partial(layer.init, KEY), partial(layer, {})):
        with pytest.raises(ValueError) as caught:
            use({"y": x})
        assert (
            f"{make.__name__}(total): input is {{y: float32[2,3,4]}}, wanted an array or a dict with"
            in said(caught)
        )


def test_wrong_carries():
    cell = fn.lstm_cell(2)
    params, x = params_for(cell, 3), ones((4, 5, 3))
    right = zeros((4, 2))
    for wrong, shown in (
        (right, "float32[4,2]"),
        ((right, zeros((1, 2))), "(float32[4,2], float32[1,2])"),
        ((right, right.astype(jnp.bfloat16)), "(float32[4,2], bfloat16[4,2])"),
        ((right, right, right), "(float32[4,2], float32[4,2], float32[4,2])"),
    ):
        with pytest.raises(ValueError) as caught:
            fn.unroll(cell, params, x, carry=wrong)
        assert (
            f"lstm: carry is {shown}, wanted (float32[4,2], float32[4,2]), as initial_carry gives it"
            in str(caught.value)
        )


def test_a_carry_of_weak_type():
    """It takes the dtype of the inputs, and what a run ended with begins the next."""
    total = dataclasses.replace(TOTAL, initial_carry=lambda params, x: jnp.full(x.shape, 0.0))
    x = ones((1, 2, 1), jnp.bfloat16)
    carry, _ = fn.unroll(total, {}, x)
    carry, _ = fn.unroll(total, {}, x, carry=carry)
    assert carry.dtype == jnp.bfloat16
    assert carry == 4


def test_a_cell_whose_rows_cannot_be_kept():
    """One counter for the whole batch: well without lengths, but not with them."""
    clock = fn.Cell(
        init=lambda key, x: {},
        initial_carry=lambda params, x: jnp.zeros((), jnp.int32),
        step=lambda params, carry, x: (carry + 1, x),
        name="clock",
    )
    x = ones((2, 3, 1))
    after, _ = fn.unroll(clock, {}, x)
    assert after == 3
    with pytest.raises(
        ValueError, match=r"clock: the step gave int32\[\], wanted \(batch, ...\), here batch 2"
    ):
        fn.unroll(clock, {}, x, lengths=array([3, 1]))


def test_outputs_that_cannot_be_merged():
    x = ones((2, 3, 4))
    pooled = fn.Cell(
        init=lambda key, x: {},
        initial_carry=lambda params, x: jnp.zeros(x.shape[:1], x.dtype),
        step=lambda params, carry, x: (carry, x.sum(axis=-1, keepdims=True)),
        name="pooled",
    )
    with pytest.raises(
        ValueError, match=r"forward gave float32\[2,3,4\] and backward float32\[2,3,1\]; .* one shape$"
    ):
        fn.bidirectional(TOTAL, pooled, merge="sum")({}, x)
    flat = dataclasses.replace(pooled, step=lambda params, carry, x: (carry, x.sum(axis=-1)))
    with pytest.raises(
        ValueError, match=r"backward float32\[2,3\]; to merge by concatenate .* except for the last axis"
    ):
        fn.bidirectional(TOTAL, flat)({}, x)


def test_wrong_params():
    cell = fn.gru_cell(2)
    params, x = params_for(cell, 3), ones((2, 4, 3))
    for layer, given_params in (
        (fn.bidirectional(cell), params),
        (fn.recurrent(fn.stack_cells(cell, cell)), {"cell_0": params, "cell_2": params}),
    ):
        with pytest.raises(ValueError, match=r"params has \[.*\], wanted \[.*\]; pass the params that this"):
            layer(given_params, x)
        with pytest.raises(TypeError, match=r"params is None, wanted the dict that init returned"):
            layer(None, x)
    with pytest.raises(ValueError, match="gru: params has no entries, wanted") as caught:
        fn.recurrent(fn.stack_cells(cell, cell))({"cell_0": params}, x)
    assert "in stack_cells['cell_1'], input float32[2,2]" in said(caught)
    with pytest.raises(ValueError, match="gru: input of a step is float32") as caught:
        fn.stack_cells(cell, cell).step(
            {"cell_0": params, "cell_1": params}, (zeros((2, 2)), zeros((2, 2))), x[:, 0]
        )
    assert "in stack_cells['cell_1'], input float32[2,2]" in said(caught)

    def fails(key, x):
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck") as caught:
        fn.recurrent(fn.stack_cells(TOTAL, dataclasses.replace(TOTAL, init=fails))).init(KEY, x)
    assert "in stack_cells['cell_1'], input float32[2,3]" in said(caught)
    assert "in recurrent(stack_cells), input float32[2,4,3]" in said(caught)
