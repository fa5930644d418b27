"""Content has one fingerprint, everything else another; damage and foreign files are noticed."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from helpers import keyed, warping

STRENGTH = 0.3


def brighten(volumes, generator):
    return volumes + STRENGTH


def closed_over(amount):
    def augment(volumes, generator):
        return volumes * amount

    return augment


class Brighten:
    def __init__(self, amount):
        self.amount = amount

    def __call__(self, volumes, generator):
        return volumes + self.amount


def test_equal_content_has_the_same_fingerprint():
    values = torch.rand(3, 4, 5)
    assert keyed.fingerprint(values) == keyed.fingerprint(values.clone())
    assert keyed.fingerprint(values.mT) == keyed.fingerprint(values.mT.contiguous())
    layer, same = nn.Conv3d(1, 2, 3), nn.Conv3d(1, 2, 3)
    same.load_state_dict(layer.state_dict())
    same.to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)
    layer.card = {"what": "no part of what it computes"}
    assert keyed.fingerprint(layer) == keyed.fingerprint(same)
    assert keyed.fingerprint(closed_over(0.5)) == keyed.fingerprint(closed_over(0.5))
    assert keyed.fingerprint(Brighten(1)) == keyed.fingerprint(Brighten(1))


def different():
    values = torch.arange(6.0)
    flipped = values.clone()
    flipped.view(torch.int32)[3] ^= 1  # the smallest change there is
    yield "tensors", [values, flipped, values.view(2, 3), values.double(), values.bfloat16()]
    yield "arrays", [np.zeros(3), np.zeros(3, dtype=int), np.zeros((3, 1))]
    yield "plain", [1, 1.0, True, "1", None, [1], (1,), {1: 1}, [[1]], [1, 1], ["11"], ["1", "1"]]
    yield "networks", [nn.ReLU(), nn.Tanh(), nn.MaxPool3d(2), nn.MaxPool3d(3), nn.Dropout(0.1),
                       nn.Dropout(0.2), nn.Sequential(nn.ReLU()), nn.BatchNorm3d(1)]  # fmt: skip
    shape = (16, 20, 24)
    yield (
        "simulators",
        [
            warping.Simulator(shape),
            warping.Simulator(shape, seed=1),
            warping.Simulator(shape, blur_voxels=1.5),
            warping.Simulator((24, 20, 16)),
            warping.build("first", shape),
            warping.build("liu2021", shape),
        ],
    )
    yield (
        "callables",
        [
            None,
            lambda volumes, generator: volumes + 0.1,
            lambda volumes, generator: volumes + 0.2,
            lambda volumes, generator: volumes - 0.1,
            lambda volumes, generator, amount=0.3: volumes + amount,
            lambda volumes, generator, *, amount=0.3: volumes + amount,
            closed_over(0.1),
            closed_over(0.2),
            closed_over(torch.ones(2)),
            functools.partial(brighten, generator=1),
            functools.partial(brighten, generator=2),
            Brighten(1),
            Brighten(2),
            Brighten(1).__call__,
            brighten,
            warping.disturbances,
            torch.flip,
            torch.roll,
        ],
    )


@pytest.mark.parametrize(
    ("what", "things"), list(different()), ids=lambda v: v if type(v) is str else ""
)
def test_everything_else_has_another(what, things):
    assert len({keyed.fingerprint(thing) for thing in things}) == len(things)


def test_a_global_number_that_a_function_names_counts(monkeypatch):
    before = keyed.fingerprint(brighten)
    monkeypatch.setitem(globals(), "STRENGTH", 0.4)
    assert keyed.fingerprint(brighten) != before


def test_a_function_that_closes_over_itself_ends():
    def again(depth):
        return again(depth - 1) if depth else 0

    assert keyed.fingerprint(again) == keyed.fingerprint(again)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "part.safetensors"
    tensors = {"map": torch.rand(2, 3), "count": torch.tensor(7)}
    keyed.save(path, key={"seed": 0, "volumes": "ab" * 32}, tensors=tensors, facts={"score": 0.97})
    return path


def test_every_flipped_bit_is_noticed(path):
    """Also those in the header, in the names and in the checksum itself."""
    intact, key = path.read_bytes(), {"seed": 0, "volumes": "ab" * 32}
    tensors, facts = keyed.load(path, key=key)
    assert tensors["count"] == 7
    assert facts == {"score": 0.97}
    for place in range(0, 8 * len(intact), 11):
        damaged = bytearray(intact)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            keyed.load(path, key=key)
    path.write_bytes(intact[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        keyed.load(path, key=key)


def test_the_message_says_what_differs_and_only_this(path):
    with pytest.raises(ValueError, match="something else: seed is 0 in the file and 1 now$"):
        keyed.load(path, key={"seed": 1, "volumes": "ab" * 32})
    with pytest.raises(ValueError, match="volumes is abababababab in the file and cdcdcdcdcdcd"):
        keyed.load(path, key={"seed": 0, "volumes": "cd" * 32})
    with pytest.raises(ValueError, match="blur is not there in the file and None now"):
        keyed.load(path, key={"seed": 0, "volumes": "ab" * 32, "blur": None})


def test_what_is_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="damaged, or not a file of this course"):
        keyed.load(tmp_path / "missing", key={})
    with pytest.raises(ValueError, match="damaged, or not a file of this course"):
        keyed.load(tmp_path, key={})
