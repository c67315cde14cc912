"""The messages of the checks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import check


@pytest.mark.parametrize(
    "x, text",
    [
        (jnp.zeros((8, 32)), "float32[8,32]"),
        (np.float64(1), "float64[]"),
        (jax.ShapeDtypeStruct((2, 0), jnp.bfloat16), "bfloat16[2,0]"),
        (jax.random.key(0), "key<fry>[]"),
        ({}, "{}"),
        ({"a": {"w": jnp.zeros(3)}, "b": []}, "{a: {w: float32[3]}, b: ()}"),
        ((jnp.zeros(1, int), [None, "x"], 2.5), "(int32[1], (None, 'x'), 2.5)"),
    ],
)
def test_describe(x, text):
    assert check.describe(x) == text


def test_describe_a_tracer():
    seen = []
    jax.jit(lambda x: seen.append(check.describe(x)))(jnp.zeros((2, 3)))
    jax.vmap(lambda x: seen.append(check.describe({"x": x})))(jnp.zeros((2, 3)))
    assert seen == ["float32[2,3]", "{x: float32[3]}"]


def test_describe_stays_short():
    assert check.describe(list(range(8))) == "(0, 1, 2, 3, 4, 5, 6, 7)"
    assert check.describe(list(range(9))) == "(0, 1, 2, 3, 4, 5, 6, 7, ... 9 in all)"
    assert len(check.describe(np.zeros((500, 500)).tolist())) < 1000


def test_at_adds_a_note_and_nothing_else():
    error = ZeroDivisionError("x")
    with (
        pytest.raises(ZeroDivisionError) as caught,
        check.at("outer", jnp.zeros(2)),
        check.at("inner['a']", 3),
    ):
        raise error
    assert caught.value is error
    assert error.__notes__ == ["in inner['a'], input 3", "in outer, input float32[2]"]
    with check.at("here", None):
        pass


def test_has_keys():
    check.has_keys("dense", "params", {"b": 1, "w": 2}, ("w", "b"))
    check.has_keys("relu", "params", {}, ())
    with pytest.raises(
        ValueError, match=r"^dense: params has \['v', 'w'\], wanted \['b', 'w'\]; pass the params that"
    ):
        check.has_keys("dense", "params", {"w": 1, "v": 1}, ("w", "b"))
    with pytest.raises(
        ValueError, match=r"^norm: state has no entries, wanted \['mean'\]; .* the one that apply returns"
    ):
        check.has_keys("norm", "state", {}, ("mean",))
    with pytest.raises(
        TypeError, match=r"^dense: params is float32\[2\], wanted the dict that init returned"
    ):
        check.has_keys("dense", "params", jnp.zeros(2), ("w",))


def test_is_floating():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, np.float64):
        check.is_floating("dense", np.zeros(2, dtype))
    check.is_floating("dense", jax.ShapeDtypeStruct((1,), jnp.float32))
    for dtype in (int, bool, np.uint8, complex):
        with pytest.raises(
            TypeError, match=rf"^dense: input is {np.dtype(dtype)}\[2\], wanted floating point; convert"
        ):
            check.is_floating("dense", np.zeros(2, dtype))
    for x in (1.0, [1.0], {"x": jnp.zeros(2)}, None):
        with pytest.raises(TypeError, match=r"^dense: input is .*, wanted one array"):
            check.is_floating("dense", x)


def test_has_rank():
    check.has_rank("dense", jnp.zeros((2, 3)), 2, "(batch, features)")
    for x, text in ((jnp.zeros(2), r"float32\[2\]"), (3.0, "3.0")):
        with pytest.raises(ValueError, match=rf"^dense: input is {text}, wanted \(batch, features\)"):
            check.has_rank("dense", x, 2, "(batch, features)")


def test_is_positive():
    for value in (1, np.int64(3), np.uint8(2)):
        check.is_positive("dense", "features", value)
    for value in (0, -1, np.int64(0)):
        with pytest.raises(ValueError, match=rf"^dense: features={value}, wanted at least 1"):
            check.is_positive("dense", "features", value)
    for value in (1.0, True, "1", None, (1,), np.float32(1), jnp.int32(1), np.array([1])):
        with pytest.raises(TypeError, match=r"^dense: features=.*, wanted a positive int"):
            check.is_positive("dense", "features", value)


def test_integer():
    for value in (0, 3, np.int64(2)):
        check.integer("split", "seed", value, "[0, inf)")
    check.integer("softmax", "axis", -1)
    for value in (-1, np.int64(-1)):
        with pytest.raises(ValueError, match=r"^split: seed=-1, wanted at least 0$"):
            check.integer("split", "seed", value, "[0, inf)")
    for value in (1.0, True, "1", None, math.nan, np.float32(1), np.True_):
        with pytest.raises(TypeError, match=r"^split: seed=.*, wanted an int$"):
            check.integer("split", "seed", value, "[0, inf)")


def test_number():
    for value in (0, 0.5, np.float32(0.5), np.int64(0), np.array(0.5), jnp.float32(0.5)):
        check.number("dropout", "rate", value, "[0, 1)")
    for value in (
        1,
        -0.5,
        np.float32(1),
        np.array(1),
        jnp.float32(-1),
        math.nan,
        np.float32("nan"),
        math.inf,
    ):
        with pytest.raises(ValueError, match=r"^dropout: rate=.*, wanted in \[0, 1\)$"):
            check.number("dropout", "rate", value, "[0, 1)")
    for value in (
        True,
        np.True_,
        "0.5",
        None,
        [0.5],
        0.5j,
        np.array([0.5]),
        jnp.array([0.5]),
        np.array(0.5j),
    ):
        with pytest.raises(TypeError, match=r"^dropout: rate.*, wanted (a|one real) number"):
            check.number("dropout", "rate", value, "[0, 1)")
    jax.jit(lambda rate: check.number("dropout", "rate", rate, "[0, 1)"))(2.0)  # no value yet


@pytest.mark.parametrize(
    ("interval", "value", "wanted"),
    [
        ("[0, inf)", -1, "at least 0"),
        ("(0, inf)", 0, "more than 0"),
        ("[0, inf)", math.nan, "at least 0"),
        ("[0, inf)", math.inf, "a finite number"),
        ("(-inf, inf)", math.nan, "a number"),
        ("(-inf, inf)", -math.inf, "a finite number"),
        ("[0, inf]", math.nan, "at least 0"),
        ("[0, 1]", 1.5, r"in \[0, 1\]"),
        ("(0, 1]", math.inf, r"in \(0, 1\]"),
    ],
)
def test_number_says_what_was_wanted(interval, value, wanted):
    with pytest.raises(ValueError, match=rf"^f: x={value}, wanted {wanted}$"):
        check.number("f", "x", value, interval)
    check.number("f", "x", 1, "[0, inf]")
    check.number("f", "x", math.inf, "[0, inf]")


def test_flag():
    check.flag("f", "x", True)
    check.flag("f", "x", False)
    for value in (1, 0, np.True_, "no", None, jnp.array(True)):
        with pytest.raises(TypeError, match=r"^f: x=.*, wanted True or False$"):
            check.flag("f", "x", value)


def test_one_of():
    check.one_of("f", "x", "a", ("a", "b", None))
    check.one_of("f", "x", None, ("a", "b", None))
    with pytest.raises(
        ValueError, match=r"^f: x='spektral', wanted one of 'spectral', 'aol'; did you mean 'spectral'\?$"
    ):
        check.one_of("f", "x", "spektral", ("spectral", "aol"))
    for value in ("q", ["a"], np.array(["a", "b"])):
        with pytest.raises(ValueError, match=r"wanted one of 'aa', 'b'$"):
            check.one_of("f", "x", value, ("aa", "b"))
    with pytest.raises(ValueError, match="wanted one of True, False"):
        check.one_of("f", "x", 1, (True, False))
