"""The messages of the checks."""

import collections
import math
import types

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


def test_is_dict():
    check.is_dict("dense", "params", {})
    check.is_dict("dense", "params", collections.OrderedDict())
    for what, got, said in (
        ("params", types.MappingProxyType({}), "of type mappingproxy"),
        ("state", collections.OrderedDict(), "of type OrderedDict"),
        ("params", jnp.zeros(2), r"float32\[2\]"),
        ("state", None, "None"),
    ):
        with pytest.raises(TypeError, match=rf"^dense: {what} is {said}, wanted the dict that init returned"):
            check.is_dict("dense", what, got)


def test_has_shapes():
    w, b, wanted = np.ones((3, 4), np.float32), np.ones(4), {"w": (3, 4), "b": (4,)}
    check.has_shapes("dense", "params", {"w": w, "b": b}, wanted)
    check.has_shapes("dense", "params", {"w": w, "b": b.astype(jnp.bfloat16)}, wanted)
    check.has_shapes("relu", "params", {}, {})
    check.has_shapes("net", "params", {"a": {"w": w}, "b": 7}, {"a": {"w": (None, 4)}, "b": ...})
    check.has_shapes("cache", "state", {"position": np.int32(1), "k": w}, {"position": int, "k": float})
    for got, error, said in (
        ({"w": w, "v": b}, ValueError, r"params has \['v', 'w'\], wanted \['b', 'w'\]; pass the params"),
        ({}, ValueError, r"params has no entries, wanted \['b', 'w'\]"),
        (w, TypeError, r"params is float32\[3,4\], wanted the dict that init returned"),
        ({"w": w, "b": 1.0}, TypeError, r"params has b 1.0, wanted an array in floating point; pass the"),
        ({"w": w, "b": None}, TypeError, r"params has b None, wanted an array"),
        ({"w": w, "b": {"b": b}}, TypeError, r"params has b \{b: float64\[4\]\}, wanted an array"),
        ({"w": w, "b": b.astype(int)}, TypeError, r"params has b int64\[4\], wanted an array in floating"),
        ({"w": w, "b": b > 0}, TypeError, r"params has b bool\[4\], wanted an array in floating"),
        ({"w": w, "b": b[:1]}, ValueError, r"params has b float64\[1\], wanted \(4,\); pass the params that"),
        ({"w": w, "b": b[None]}, ValueError, r"params has b float64\[1,4\], wanted \(4,\)"),
        ({"w": w[0], "b": b}, ValueError, r"params has w float32\[4\], wanted \(3, 4\)"),
    ):
        with pytest.raises(error, match=rf"^dense: {said}"):
            check.has_shapes("dense", "params", got, wanted)
    for got, error, said in (
        (
            {"a": {"w": b}},
            ValueError,
            r"state\['a'\] has w float64\[4\], wanted \(any, 4\); .* apply returns$",
        ),
        ({"a": {}}, ValueError, r"state\['a'\] has no entries, wanted \['w'\]; pass the state that"),
        ({"a": w}, TypeError, r"state\['a'\] is float32\[3,4\], wanted the dict"),
    ):
        with pytest.raises(error, match=rf"^net: {said}"):
            check.has_shapes("net", "state", got, {"a": {"w": (None, 4)}})
    with pytest.raises(TypeError, match=r"^net: state has position float64\[\], wanted an integer"):
        check.has_shapes("net", "state", {"position": np.float64(1)}, {"position": int})
    with pytest.raises(ValueError, match=r"^relu: params has \['w'\], wanted none"):
        check.has_shapes("relu", "params", {"w": w}, {})


def test_has_shapes_names_an_input_of_other_features():
    w, x = np.ones((3, 4), np.float32), np.ones((5, 2), np.float32)
    features = [("w", [0], "input", x)]
    with pytest.raises(
        ValueError, match=r"^dense: input is float32\[5,2\] and w float32\[3,4\], wanted 3 features; flat"
    ):
        check.has_shapes("dense", "params", {"w": w}, {"w": (2, 4)}, features=features, hint="; flatten it")
    for other in (w[:, :3], w[0], w[None]):  # not only its features
        with pytest.raises(ValueError, match=r"^dense: params has w"):
            check.has_shapes("dense", "params", {"w": other}, {"w": (2, 4)}, features=features)


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
