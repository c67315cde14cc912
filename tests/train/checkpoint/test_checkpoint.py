"""Checkpoints: every bit comes back, damage is named, and no failure costs the checkpoint before it."""

import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import fnnet as fn
from fnnet.train import checkpoint
from fnnet.train.checkpoint import arrays as checkpoint_arrays
from fnnet.train.checkpoint import checkpoint as checkpoint_module
from fnnet.train.checkpoint.checkpoint import CheckpointError


def same(a, b):
    """Equal in type, dtype, shape, place and every bit."""
    assert type(a) is type(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    if isinstance(a, jax.Array):
        assert (a.sharding, a.committed) == (b.sharding, b.committed)
        assert getattr(a, "weak_type", None) == getattr(b, "weak_type", None)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(a) == jax.random.key_impl(b)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def a_run():
    net = fn.serial(fn.dense(3), fn.batch_norm(), fn.dense(2))
    x = jax.ShapeDtypeStruct((4, 2), jnp.float32)
    return jax.jit(lambda: fn.train.start(net, fn.optim.adam(1e-3), jax.random.key(0), x))()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


def test_everything_comes_back(tmp_path):
    bits = np.array(
        [0x7FC12345, 0xFFC00001, 0x80000000, 0x7F800000, 1], np.uint32
    )  # NaNs, -0, inf, subnormal
    tree = {
        "run": a_run(),
        "optax": jax.jit(
            optax.chain(optax.clip(1.0), optax.masked(optax.adam(1e-3), {"w": True, "b": False})).init
        )({"w": np.ones(2, np.float32), "b": np.ones(1, np.float32)}),
        "keys": (
            jax.random.key(1),
            jax.random.split(jax.random.key(2, impl="rbg"), (2, 3)),
            jax.random.PRNGKey(3),
        ),
        "bits": jnp.asarray(bits.view(np.float32)),
        "zeros": jnp.asarray(-np.zeros((2, 2), jnp.bfloat16)),
        "dtypes": [
            jnp.asarray(np.arange(3).astype(name))
            for name in ("bool", "int8", "uint8", "int32", "uint32", "float16", "bfloat16", "complex64")
        ],
        "float8": [
            jnp.asarray(np.ones(2, name)) for name in (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float8_e8m0fnu)
        ],
        "empty": {"none": None, "dict": {}, "list": [], "state": optax.EmptyState()},
        "size 0": (jnp.zeros((0, 3)), np.zeros((2, 0)), jax.random.split(jax.random.key(1), 3)[:0]),
        "numpy": (np.arange(6.0).reshape(2, 3).T, np.arange(4, dtype=">i2"), np.float16(2), np.array(7)),
        "weak": (jnp.asarray(1.5), jnp.broadcast_to(jnp.asarray(2), (2, 2))),
        "placed": jax.device_put(jnp.ones(2), jax.devices()[0]),
        "o/d.d ['k'] ü": {"": jnp.ones(1), "/": jnp.zeros(1)},
    }
    about = {"position": [1, {"epoch": 2}], "loss": float("nan"), "é": "ü", "none": None}
    path = checkpoint.save(tmp_path / "new", 1200, tree, about)
    assert path == tmp_path / "new" / "step_000000001200"
    back, said = checkpoint.restore(tmp_path / "new", tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(same, tree, back)
    assert repr(said) == repr(about)
    # NumPy's are the caller's to write to.
    assert all(a.flags.writeable for a in back["numpy"] if isinstance(a, np.ndarray))

    shapes = dict(tree, run=jax.eval_shape(lambda: tree["run"]), weak=jax.eval_shape(lambda: tree["weak"]))
    shapes["keys"] = jax.eval_shape(lambda: tree["keys"])
    jax.tree.map(same, tree, checkpoint.restore(tmp_path / "new", shapes)[0])


def test_float64(tmp_path):
    with jax.enable_x64(True):
        tree = {"x": jnp.full(2, 1 / 3), "n": jnp.asarray(2**40)}
        checkpoint.save(tmp_path, 0, tree)
        jax.tree.map(same, tree, checkpoint.restore(tmp_path, tree)[0])
        shapes = jax.eval_shape(lambda: tree)
    with pytest.raises(
        TypeError, match=r"restore: \['n'\] is int64\[\], which jax would reduce .*jax_enable_x64"
    ):
        checkpoint.restore(tmp_path, shapes)
    same(np.full(2, 1 / 3), checkpoint.restore(tmp_path, {"x": np.zeros(2), "n": np.zeros((), int)})[0]["x"])


def test_a_restored_run_steps_on_without_a_compilation(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda a: a + 1, tree), donate_argnums=0)
    tree = step({"w": jnp.ones(3), "count": jnp.zeros([], jnp.int32)})
    checkpoint.save(tmp_path, 1, tree)
    tree, _ = checkpoint.restore(tmp_path, tree)
    assert step(tree)["w"][0] == 3
    assert tree["w"].is_deleted()  # and is still a like
    jax.tree.map(
        same, checkpoint.restore(tmp_path, tree)[0], {"w": jnp.full(3, 2.0, float), "count": jnp.int32(1)}
    )
    assert step._cache_size() == 1


def test_orbax_reads_the_arrays(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"b": jnp.arange(3.0), "a": jnp.zeros(0), "c": np.int8(4)})
    args = {str(i): ocp.RestoreArgs(restore_type=np.ndarray) for i in (1, 2)}
    read = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
        path / "arrays", ocp.args.PyTreeRestore(item=dict.fromkeys(args, 0), restore_args=args)
    )
    np.testing.assert_array_equal(read["1"], [0, 1, 2])
    assert read["2"] == 4
    leaves = json.loads((path / "about.json").read_text())["leaves"]
    assert [(leaf["path"], leaf["array"]) for leaf in leaves] == [
        ("['a']", "float32[0]"),
        ("['b']", "float32[3]"),
        ("['c']", "int8[]"),
    ]


def test_keeps_the_last_and_no_thread(tmp_path, capfd):
    threads = threading.active_count()
    shutil.copytree(
        checkpoint.save(tmp_path / "other", 3, {}), tmp_path / "runs" / ".saving-000000000009-1" / "arrays"
    )
    (tmp_path / "runs" / ".removing-step_000000000001").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    (tmp_path / "runs" / "step_12").mkdir()
    assert checkpoint.steps(tmp_path / "runs") == []
    for step in (2, 30, 400):
        checkpoint.save(tmp_path / "runs", step, {"w": jnp.full(2, step)}, keep=2)
    assert checkpoint.steps(tmp_path / "runs") == [30, 400]
    assert names(tmp_path / "runs") == [
        "notes.txt",
        "step_000000000030",
        "step_000000000400",
        "step_12",
    ]
    assert checkpoint.restore(tmp_path / "runs", {"w": jnp.zeros(2, int)}, step=30)[0]["w"][0] == 30
    checkpoint.save(tmp_path / "runs", 401, {}, keep=1)
    assert checkpoint.steps(tmp_path / "runs") == [401]
    assert checkpoint.restore(tmp_path / "runs", {}) == ({}, {})
    assert threading.active_count() <= threads + 1  # a thread of asyncio's pool may be about to end
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "step, tree, about, keep, error, message",
    [
        (jnp.int32(3), {}, {}, 2, TypeError, r"step=Array.*wanted an int; write int\(train_state.step\)"),
        (True, {}, {}, 2, TypeError, "step=True, wanted an int"),
        (-1, {}, {}, 2, ValueError, r"step=-1, wanted in \[0, 1e12\)"),
        (9, {}, {}, 0, ValueError, "save: keep=0, wanted at least 1"),
        (
            9,
            {"a": 1.0},
            {},
            2,
            TypeError,
            r"\['a'\] is 1.0, wanted an array; numbers and strings go into about",
        ),
        (
            9,
            np.array([None]),
            {},
            2,
            TypeError,
            r"the tree is object\[1\], a dtype that checkpoints cannot hold",
        ),
        (9, {"a": np.longdouble(1)}, {}, 2, TypeError, r"\['a'\] is float128\[\], a dtype"),
        (9, [jnp.ones(2, jnp.uint4)], {}, 2, TypeError, r"\[0\] is uint4\[2\], a dtype that"),
        (
            9,
            {},
            {1: 2},
            2,
            TypeError,
            r"about=\{1: 2\} would come back as \{'1': 2\}; wanted dicts with strings",
        ),
        (9, {}, {"a": (1,)}, 2, TypeError, "would come back as {'a': "),
        (9, {}, {"a": np.ones(1)}, 2, TypeError, "is not JSON .*arrays go into the tree"),
        (
            5,
            {},
            {},
            2,
            CheckpointError,
            "has a checkpoint of step 5, and this is step 5, wanted a later one; .*move",
        ),
        (
            1,
            {},
            {},
            2,
            CheckpointError,
            "step 5, and this is step 1, .* move step_000000000004 and what follows out",
        ),
    ],
)
def test_what_save_refuses(tmp_path, step, tree, about, keep, error, message):
    for earlier in (4, 5):
        (tmp_path / f"step_{earlier:012d}").mkdir()
    with pytest.raises(error, match=message):
        checkpoint.save(tmp_path, step, tree, about, keep=keep)
    assert len(names(tmp_path)) == 2


def test_what_else_save_refuses(tmp_path):
    with pytest.raises(TypeError, match="the tree is traced: call save outside jit"):
        jax.jit(lambda x: checkpoint.save(tmp_path, 1, x))(jnp.ones(2))
    gone = jnp.ones(2)
    gone.delete()
    with pytest.raises(ValueError, match=r"\['a'\] was donated to a step; save what the step returned"):
        checkpoint.save(tmp_path, 1, {"a": gone})
    assert names(tmp_path) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for step in (10, 20):
        checkpoint.save(
            folder, step, {"w": jnp.full((4, 3), step, jnp.float32), "n": jnp.int32(step)}, {"at": step}
        )
    return folder


LIKE = {"w": jnp.zeros((4, 3)), "n": jnp.zeros([], jnp.int32)}


def largest(path):
    return max(files(path / "arrays"), key=lambda p: p.stat().st_size)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rewrite(path, **changes):
    record = json.loads((path / "about.json").read_text())
    (path / "about.json").write_text(json.dumps(record | changes))


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def replace_by_a_file(path):
    shutil.rmtree(path)
    path.write_text("")


def replace_by_orbax(path):
    shutil.rmtree(path)
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(path, {"w": np.ones(3)})


def swap(path):
    shutil.rmtree(path)
    shutil.copytree(path.with_name("step_000000000010"), path)


DAMAGE = {
    "truncated": (lambda p: os.truncate(largest(p), 20), r"arrays/.* has 20 bytes, wanted \d+; the checkpoint is"),
    "flipped": (lambda p: flip(largest(p)), r"arrays/.* has changed since it was written: SHA-256 .* wanted .*; the"),
    "deleted": (lambda p: largest(p).unlink(), "arrays/.* is missing; the checkpoint is damaged"),
    "no JSON": (lambda p: os.truncate(p / "about.json", 100), r"about.json is not JSON \(.*\); the checkpoint is"),
    "no text": (lambda p: (p / "about.json").write_bytes(b"\xff\xfe{"), "about.json is not JSON"),
    "changed": (lambda p: rewrite(p, about={"at": 21}), "about.json has changed since it was written; the checkpoint"),
    "other JSON": (lambda p: (p / "about.json").write_text("[1]"), "about.json has no format number: it was not"),
    "no about": (lambda p: (p / "about.json").unlink(), "has no about.json, but arrays: it is damaged, or was not"),
    "newer": (lambda p: rewrite(p, format=2, fnnet="7.1"), "is of format 2, written by fnnet 7.1; this one reads"),
    "empty": (empty, "has no about.json, but nothing: it is damaged, or"),
    "a file": (replace_by_a_file, "step_000000000020 is a file, wanted a folder; the checkpoint is damaged"),
    "foreign": (replace_by_orbax, "has no about.json, but _CHECKPOINT_METADATA, .*: it is damaged, or was not written"),
    "swapped": (swap, "step_000000000020 is of step 10, and has another name"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_never_passed_over(saved, tmp_path, damage):
    harm, message = DAMAGE[damage]
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    harm(folder / "step_000000000020")
    assert checkpoint.steps(folder) == [10, 20]
    with pytest.raises(CheckpointError, match=message) as raised:
        checkpoint.restore(folder, LIKE)
    assert str(folder / "step_000000000020") in str(raised.value)
    assert str(raised.value).endswith(
        "step 10 is intact: pass step=10, and move later ones away before the run saves again"
    )
    tree, about = checkpoint.restore(folder, LIKE, step=10)
    assert (tree["n"], about) == (10, {"at": 10})


def test_every_flipped_byte_is_seen(saved, tmp_path):
    for file in files(saved / "step_000000000020"):
        copy = tmp_path / file.parent.parent.name / file.name
        shutil.copytree(saved, copy)
        flip(copy / file.relative_to(saved))
        with pytest.raises(CheckpointError, match=re.escape(file.name)):
            checkpoint.restore(copy, LIKE)
    os.truncate(largest(copy / "step_000000000010"), 1)
    with pytest.raises(CheckpointError, match=r"; there is no other intact one$"):
        checkpoint.restore(copy, LIKE)


def test_there_is_none(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "begun" / ".saving-000000000001-7").mkdir(parents=True)
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(tmp_path / "orbax", {"w": np.ones(3)})
    for folder, message in {
        tmp_path / "none": "no checkpoint in .*/none: there is no such folder",
        tmp_path / "empty": "empty: it is empty",
        tmp_path / "file": "file: it is a file, wanted the folder that was given to save",
        tmp_path
        / "begun": "a process was stopped before its first checkpoint was complete, and left .saving-0.*; start again",
        tmp_path / "orbax": "it has _CHECKPOINT_METADATA, .*, which fnnet did not write",
        saved / "step_000000000010": f"it is a checkpoint itself; wanted the folder around it, {saved}",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            checkpoint.restore(folder, LIKE)
        assert checkpoint.steps(folder) == []
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 15; it has \[10, 20\]"):
        checkpoint.restore(saved, LIKE, step=15)


@pytest.mark.parametrize(
    "like, message",
    [
        ({"n": LIKE["n"]}, r"it has, not asked for, \['w'\] float32\[4,3\]; another network or optimizer wrote it"),
        (LIKE | {"b": jnp.ones(3)}, r"it lacks \['b'\] float32\[3\]; another network"),
        (LIKE | {f"b{i}": jnp.ones(3) for i in range(5)}, r"it lacks \['b0'\] .*, \['b2'\] float32\[3\] and 2 more;"),
        (LIKE | {"w": jnp.zeros((3, 4))}, r"\['w'\] is float32\[4,3\], wanted float32\[3,4\]; another"),
        (LIKE | {"w": jnp.zeros((4, 3), jnp.bfloat16)}, r"\['w'\] is float32\[4,3\], wanted bfloat16\[4,3\]"),
        (LIKE | {"n": jax.random.key(0)}, r"\['n'\] is int32\[\], wanted key<fry>\[\]"),
        (LIKE | {"n": np.int64(0)}, r"\['n'\] is int32\[\], wanted int64\[\]"),
        ([LIKE["n"]], r"it lacks \[0\] int32\[\]; it has, not asked for, \['n'\] int32\[\], \['w'\]"),
    ],
)  # fmt: skip
def test_another_network(saved, like, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.restore(saved, like)


def test_like_is_no_tree_of_arrays(saved):
    with pytest.raises(TypeError, match=r"restore: \['n'\] is 3, wanted an array"):
        checkpoint.restore(saved, LIKE | {"n": 3})


@pytest.mark.slow
@pytest.mark.parametrize("limit", [10, 150, 2000])
def test_a_full_disk(tmp_path, capfd, limit):
    """No file may grow past a limit of bytes: of orbax's first file, of one in between, of its data."""
    tree = {"w": jnp.arange(3000.0)}
    checkpoint.save(tmp_path, 1, tree)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(
            OSError, match=rf"step 2 could not be written to {tmp_path}: File too large; .* step 1 is intact"
        ):
            checkpoint.save(tmp_path, 2, tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step_000000000001"]
    same(tree["w"], checkpoint.restore(tmp_path, tree)[0]["w"])
    checkpoint.save(tmp_path, 2, tree)
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert capfd.readouterr().err == ""


def test_a_disk_too_small(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"w": jnp.ones(1)})
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 9 * 10**5, 10**5)
    )
    with pytest.raises(
        OSError, match=r"No space left .* \(265,536 bytes are needed, 100,000 are free\); that of step 1"
    ):
        checkpoint.save(tmp_path, 2, {"w": jnp.ones(50_000)})
    assert names(tmp_path) == ["step_000000000001"]
    checkpoint.save(tmp_path, 2, {"w": jnp.ones(1)})
    # A file system that does not know its size.
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 0))
    checkpoint.save(tmp_path, 3, {"w": jnp.ones(1)})


@pytest.mark.slow
def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder, error, message in (
        (
            tmp_path / "no" / "parent",
            FileNotFoundError,
            "No such file or directory .*; there is no earlier one in it",
        ),
        (tmp_path / "file", FileExistsError, r"could not be written to .*/file: File exists"),
        (tmp_path / "file" / "in", NotADirectoryError, "Not a directory"),
        ("/proc/self", OSError, "step 1 could not be written to /proc/self: "),
    ):
        with pytest.raises(error, match=message):
            checkpoint.save(folder, 1, {})

    # The disk is full, and the folder read-only, at the last moment.
    checkpoint.save(tmp_path / "run", 1, {"w": jnp.ones(1)})
    for name, number in (("fsync", 28), ("rename", 30)):
        with monkeypatch.context() as patch:

            def fail(*args, number=number):
                raise OSError(number, os.strerror(number), "here")

            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match=r"\(here\); that of step 1 is intact; make room") as raised:
                checkpoint.save(tmp_path / "run", 2, {"w": jnp.ones(1)})
            assert raised.value.errno == number
        assert names(tmp_path / "run") == ["step_000000000001"]


def test_the_folder_vanishes(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "run", 1, {"w": jnp.ones(1)})
    write_record = checkpoint_module.write_record

    def vanish(*args):
        shutil.rmtree(tmp_path / "run")
        write_record(*args)

    monkeypatch.setattr(checkpoint_module, "write_record", vanish)
    with pytest.raises(
        FileNotFoundError, match=r"No such file or directory .*; there is no earlier one in it"
    ):
        checkpoint.save(tmp_path / "run", 2, {"w": jnp.ones(1)})
    assert names(tmp_path) == []


@pytest.mark.slow
def test_orbax_fails_while_its_threads_write(tmp_path, monkeypatch, capfd):
    """It reports the first failure, and its other threads are then still at work."""
    gone = jnp.ones(2)
    gone.delete()
    monkeypatch.setattr(checkpoint_arrays, "_to_orbax", lambda leaves: {"0": jnp.ones(2), "1": gone})
    with pytest.raises(RuntimeError, match="deleted"):
        checkpoint.save(tmp_path, 2, {})
    threads = [thread for thread in threading.enumerate() if type(thread).__module__.startswith("orbax")]
    assert (names(tmp_path), threads, capfd.readouterr().err) == ([], [], "")


def test_interrupted(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "write_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, {"w": jnp.ones(1)})
    assert names(tmp_path) == []


def test_orbax_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(
        ImportError, match=r"save: checkpoints are written by orbax.*pip install orbax-checkpoint"
    ):
        checkpoint.save(tmp_path, 2, {})
    with pytest.raises(ImportError, match="restore: checkpoints are written by orbax"):
        checkpoint.restore(tmp_path, {})


# A process that imports once, and forks before JAX starts. Each child resumes from the newest checkpoint, saves
# again and again, and is killed at a random moment.
KILLED = """
import os, random, signal, sys, time, traceback
import jax, jax.numpy as jnp
import orbax.checkpoint
from fnnet.train import checkpoint

folder, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
like = {"a": jax.ShapeDtypeStruct((50, 20), jnp.float32), "b": [jax.ShapeDtypeStruct((), jnp.int32)] * 3}

def child(written):
    step, said = -1, int.from_bytes(open(written, "rb").read()[-8:] or bytes(8))
    if checkpoint.steps(folder):
        tree, about = checkpoint.restore(folder, like)
        step = about["step"]
        assert step == checkpoint.steps(folder)[-1] >= said, (step, said)
        assert all((leaf == step).all() for leaf in jax.tree.leaves(tree)), (step, tree)
    else:
        assert said == 0
    with open(written, "ab", buffering=0) as file:
        while True:
            step += 1
            tree = jax.tree.map(lambda leaf: jnp.full(leaf.shape, step, leaf.dtype), like)
            checkpoint.save(folder, step, tree, {"step": step})
            file.write(step.to_bytes(8))

written = folder + ".written"
open(written, "wb").close()
for _ in range(kills):
    size = os.path.getsize(written)
    pid = os.fork()
    if pid == 0:
        try:
            child(written)
        finally:
            traceback.print_exc()
            os._exit(1)
    while os.path.getsize(written) == size and os.waitpid(pid, os.WNOHANG)[0] == 0:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
print(os.path.getsize(written) // 8)
"""


def run_program(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    folder, kills = tmp_path / "run", 8
    done = run_program(KILLED, folder, kills, random.randrange(2**32))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= kills
    like = {"a": jnp.zeros((50, 20)), "b": [jnp.zeros([], jnp.int32)] * 3}
    tree, about = checkpoint.restore(folder, like)
    assert about["step"] >= int.from_bytes((tmp_path / "run.written").read_bytes()[-8:])
    assert all((leaf == about["step"]).all() for leaf in jax.tree.leaves(tree))


EIGHT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from fnnet.train import checkpoint

folder = sys.argv[1]
w = np.arange(64, dtype=np.float32).reshape(16, 4)
for n in (8, 4):
    mesh = jax.make_mesh((n // 2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:n])
    rows, block, all = (NamedSharding(mesh, spec) for spec in (P("data"), P("data", "model"), P()))
    places = {"w": block, "h": rows, "keys": rows, "empty": rows, "n": all, "one": None}
    dtypes = {"w": w, "h": jnp.asarray(w, jnp.bfloat16), "keys": jax.random.split(jax.random.key(0), 16)}
    dtypes |= {"empty": jnp.zeros((0, 2)), "n": jnp.int32(7), "one": jnp.ones(3)}
    tree = {name: jax.device_put(array, places[name]) for name, array in dtypes.items()}
    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=places[name]) for name, a in tree.items()}
    if n == 8:
        tree["w"] = jax.jit(lambda w: w + 0)(tree["w"])
        checkpoint.save(folder + "/eight", 1, tree)
    for source in ("one", "eight"):
        for like in (tree, shapes):
            back, _ = checkpoint.restore(folder + "/" + source, like)
            for name, array in back.items():
                assert array.dtype == tree[name].dtype
                assert array.committed == (name != "one")
                if name != "one":
                    assert array.sharding == places[name], (name, array.sharding)
                data = jax.random.key_data if name == "keys" else lambda a: a
                np.testing.assert_array_equal(data(array), data(tree[name]), err_msg=name)
            assert back["w"].addressable_shards[0].data.shape == (16 // (n // 2), 2)
print(len(jax.devices()), "devices")
"""


@pytest.mark.slow
def test_eight_devices_to_four_to_one_and_back(tmp_path):
    w = np.arange(64, dtype=np.float32).reshape(16, 4)
    tree = {
        "w": jnp.asarray(w),
        "h": jnp.asarray(w, jnp.bfloat16),
        "keys": jax.random.split(jax.random.key(0), 16),
    }
    tree |= {"empty": jnp.zeros((0, 2)), "n": jnp.asarray(7, jnp.int32), "one": jnp.ones(3)}
    checkpoint.save(tmp_path / "one", 1, tree)
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = run_program(EIGHT, tmp_path, XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "8 devices\n"
    jax.tree.map(same, tree, checkpoint.restore(tmp_path / "eight", tree)[0])
