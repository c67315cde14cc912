"""The messages of the checks."""

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


def test_between():
    for value in (0, 0.5, np.float32(0.5), np.int64(0)):
        check.between("dropout", "rate", value, 0, 1)
    for value in (1, -0.5, np.float32(1), float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^dropout: rate=.*, wanted in \[0, 1\)$"):
            check.between("dropout", "rate", value, 0, 1)
    with pytest.raises(ValueError, match=r"^adam: eps=-1, wanted at least 0$"):
        check.between("adam", "eps", -1, 0)
    jax.jit(lambda rate: check.between("dropout", "rate", rate, 0, 1))(2.0)  # no value yet
