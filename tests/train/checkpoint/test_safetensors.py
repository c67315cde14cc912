"""safetensors files: the format's own library reads ours, and we read its."""

import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import fnnet as fn
from fnnet.train import load_safetensors, save_safetensors


def params():
    net = fn.serial(fn.dense(3), fn.relu, head=fn.dense(2))
    return net.init(jax.random.key(0), jax.ShapeDtypeStruct((4, 2), jnp.float32))[0]


def test_its_own_library_reads_it(tmp_path):
    tree = params() | {
        "norm": {"deep": {"g": jnp.ones((2, 3), jnp.bfloat16) / 3}},
        "transposed": np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
        "big endian": np.arange(3, dtype=">i4"),
        "scalar": jnp.asarray(2, jnp.int32),
        "empty": jnp.zeros((0, 3)),
        "half": jnp.ones(2, jnp.float16),
        "mask": np.array([True, False]),
    }
    path = tmp_path / "p.safetensors"
    save_safetensors(path, tree, {"network": "2-3-2"})
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"network": "2-3-2"}
        assert set(file.keys()) == {
            *("dense_0/b", "dense_0/w", "head/b", "head/w", "norm/deep/g"),
            *("transposed", "big endian", "scalar", "empty", "half", "mask"),
        }
        np.testing.assert_array_equal(file.get_tensor("head/w"), tree["head"]["w"])
        np.testing.assert_array_equal(file.get_tensor("transposed"), [[0, 3], [1, 4], [2, 5]])
        np.testing.assert_array_equal(file.get_tensor("big endian"), [0, 1, 2])
        bits = safetensors.deserialize(path.read_bytes())
    bits = dict(bits)["norm/deep/g"]
    assert (bits["dtype"], bits["shape"]) == ("BF16", [2, 3])
    assert bytes(bits["data"]) == struct.pack("<H", 0x3EAB) * 6  # a third

    back = load_safetensors(path, like=tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(back), strict=True):
        assert isinstance(b, jax.Array)
        assert (a.dtype.name, a.shape) == (b.dtype.name, b.shape)
        np.testing.assert_array_equal(a, b)


def test_reads_those_of_others(tmp_path):
    path = tmp_path / "other"
    safetensors.numpy.save_file(
        {"b.weight": np.ones(2, np.float16), "a/0": np.arange(3, dtype=np.uint8)}, path
    )
    back = load_safetensors(path)
    assert (
        str(back) == "{'a': {'0': Array([0, 1, 2], dtype=uint8)}, 'b.weight': Array([1., 1.], dtype=float16)}"
    )
    save_safetensors(path, {})
    assert safetensors.numpy.load_file(path) == {} == load_safetensors(path, like={})


def test_float64(tmp_path):
    path = tmp_path / "p"
    save_safetensors(path, {"w": np.full(2, 1 / 3)})
    with pytest.raises(
        ValueError, match=r"w is float64, which jax would reduce to half its width; call .*jax_enable_x64"
    ):
        load_safetensors(path)
    with jax.enable_x64(True):
        assert load_safetensors(path)["w"].tolist() == [1 / 3, 1 / 3]


@pytest.mark.parametrize(
    "tree, metadata, error, message",
    [
        ([jnp.ones(2)], None, TypeError, r"params is \(float32\[2\]\), wanted a nested dict of arrays"),
        (
            {"a": (jnp.ones(2), None)},
            None,
            TypeError,
            r"a is \(float32\[2\], None\), wanted a nested dict .*checkpoint",
        ),
        ({"a": {"b": 1.0}}, None, TypeError, "a/b is 1.0, wanted"),
        (
            {"a": {"b/c": jnp.ones(2)}},
            None,
            ValueError,
            """params: a has a key 'b/c', wanted a string without "/", which""",
        ),
        ({1: jnp.ones(2)}, None, ValueError, "params has a key 1, wanted a string"),
        ({"": jnp.ones(2)}, None, ValueError, "has a key '', wanted"),
        (
            {"a": {"b": {}}},
            None,
            ValueError,
            "a/b is an empty dict, which the file cannot hold; leave it out",
        ),
        (
            {"a": jnp.ones(2, jnp.int4)},
            None,
            TypeError,
            r"a is int4\[2\], a dtype that the format does not have; conv",
        ),
        ({"a": jax.random.key(0)}, None, TypeError, r"a is key<fry>\[\], a dtype that"),
        (
            {"a": jnp.ones(2)},
            {"epoch": 3},
            TypeError,
            "metadata={'epoch': 3}, wanted strings by name; convert others with json.dumps",
        ),
    ],
)
def test_what_save_refuses(tmp_path, tree, metadata, error, message):
    with pytest.raises(error, match=message):
        save_safetensors(tmp_path / "p", tree, metadata)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit(tmp_path):
    tree, path = params(), tmp_path / "p"
    save_safetensors(path, tree)
    for like, message in (
        (
            tree | {"out": {"w": jnp.ones(3)}},
            r"it lacks out/w float32\[3\]; wanted the params of the network that it was",
        ),
        (
            {"head": tree["head"]},
            r"it has, not asked for, dense_0/b float32\[3\], dense_0/w float32\[2,3\]; wanted",
        ),
        (
            tree | {"head": {"w": jnp.ones(2), "b": jnp.ones(2)}},
            r"head/w is float32\[3,2\], wanted float32\[2\]",
        ),
        (
            jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree),
            r"dense_0/b is float32\[3\], wanted bfloat16\[3\], .* and 1 more",
        ),
    ):
        with pytest.raises(ValueError, match=rf"{path} does not fit: .*{message}"):
            load_safetensors(path, like)
    with pytest.raises(ValueError, match="load_safetensors: like has a key 'a/b', wanted"):
        load_safetensors(path, {"a/b": jnp.ones(1)})
    with pytest.raises(TypeError, match="load_safetensors: like is 3, wanted a nested dict of arrays"):
        load_safetensors(path, 3)


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "p"
    save_safetensors(path, params())
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:60], whole[:-1], whole + b"x", b"PK\x03\x04" * 30):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"p: damaged, or not a safetensors file: {len(content)} bytes .*; wanted a co"
        ):
            load_safetensors(path)

    def write(**dtypes):
        header = {
            name: {"dtype": dtype, "shape": [1], "data_offsets": [i, i + 1]}
            for i, (name, dtype) in enumerate(dtypes.items())
        }
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(len(dtypes)))

    write(a="F8_E8M0")
    with pytest.raises(ValueError, match="p: a is of dtype F8_E8M0, wanted one of BOOL, I8, "):
        load_safetensors(path)
    write(**{"a": "U8", "a/b": "U8"})
    with pytest.raises(ValueError, match="p: a/b is inside of a, which is an array"):
        load_safetensors(path)
    write(**{"a/b": "U8", "a": "U8"})
    with pytest.raises(ValueError, match="p: a/b is inside of a, which is an array"):
        load_safetensors(path)
    with pytest.raises(FileNotFoundError):
        load_safetensors(tmp_path / "none")


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "p"
    save_safetensors(path, {"w": jnp.ones(2)})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("os.fsync", full)
        save_safetensors(path, {"w": jnp.zeros(2)})
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    assert load_safetensors(path)["w"].tolist() == [1, 1]
    with pytest.raises(FileNotFoundError):
        save_safetensors(tmp_path / "no" / "p", {})


def test_safetensors_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"save_safetensors: .*pip install safetensors"):
        save_safetensors(tmp_path / "p", {})
    with pytest.raises(ImportError, match=r"load_safetensors: .*pip install safetensors"):
        load_safetensors(tmp_path / "p")
