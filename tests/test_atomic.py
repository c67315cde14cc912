"""A file is complete or not there at all."""

from pathlib import Path

import pytest

from fnnet.atomic import write_atomically


def test_the_file_is_put_in_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_atomically(tmp_path / "a.txt", lambda part, text=text: part.write_text(text))
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", text)]


def test_nothing_is_half_written(tmp_path: Path) -> None:
    def fails(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    (tmp_path / "there").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "there", fails)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("there", "old")]


def test_the_first_error_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):  # and not that of removing what was never there
        write_atomically(tmp_path / "file" / "a.txt", lambda part: part.write_text("x"))
    with pytest.raises(FileNotFoundError, match="gone"):
        write_atomically(tmp_path / "gone" / "a.txt", lambda part: part.write_text("x"))
