import errno

import pytest
import torch

from helpers import runtime


def test_profile_is_quick_unless_asked(monkeypatch):
    monkeypatch.delenv("HELPERS_PROFILE", raising=False)
    assert runtime.profile().name == "quick"
    monkeypatch.setenv("HELPERS_PROFILE", "full")
    assert runtime.profile().spacing_mm == 2.0


def test_unknown_profile_names_those_that_exist(monkeypatch):
    monkeypatch.setenv("HELPERS_PROFILE", "turbo")
    with pytest.raises(ValueError, match=r"'turbo'.*\['full', 'quick'\]"):
        runtime.profile()


def test_generator_streams_are_reproducible_and_apart():
    def draw(*stream):
        return torch.rand(50, generator=runtime.generator(*stream))

    assert torch.equal(draw(3, 7), draw(3, 7))
    assert not torch.equal(draw(3, 7), draw(3, 8))
    assert not torch.equal(draw(3, 7), draw(7, 3))
    with pytest.raises(ValueError, match="zero or larger"):
        runtime.generator(-1)


def test_full_disk_leaves_the_old_file(tmp_path):
    target = tmp_path / "scores.txt"
    target.write_text("old")

    def write_until_the_disk_is_full():
        with runtime.replacing(target) as unfinished:
            unfinished.write_text("half of the n")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_until_the_disk_is_full()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.txt"]
