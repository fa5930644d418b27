import pytest
import torch

from helpers import models


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_kan2020_has_the_published_number_of_weights():
    assert count(models.build("kan2020", 2, (58, 70, 58))) == 322_818


def test_liu2021_and_eitel2022_have_the_published_sizes():
    assert models.build("liu2021", 2, (64, 64, 64)).hidden.in_features == 1024
    assert models.build("eitel2022", 2, (182, 218, 182)).hidden.in_features == 6144


@pytest.mark.parametrize("name", ["course", "course_with_places", "kan2020", "liu2021", "resnet10"])
def test_one_logit_a_class_at_an_uneven_size(name):
    shape = (40, 44, 48)
    model = models.build(name, 3, shape).eval()
    assert model(torch.rand(2, 1, *shape)).shape == (2, 3)


def test_eitel2022_on_the_2_mm_grid():
    model = models.build("eitel2022", 2, (96, 112, 96)).eval()
    assert model(torch.rand(1, 1, 96, 112, 96)).shape == (1, 2)
    with pytest.raises(ValueError, match="eitel2022 pools a volume of .* down to nothing"):
        models.build("eitel2022", 2, (48, 56, 48))


def test_same_seed_same_weights_and_global_randomness_untouched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b = models.build("course", 2, seed=1), models.build("course", 2, seed=1)
    assert torch.equal(torch.rand(3), expected)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
    c = models.build("course", 2, seed=2)
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


def test_layers_by_name():
    model = models.build("course", 2)
    assert "block4.3" in models.layers(model)
    assert isinstance(models.layer(model, "block4.3"), torch.nn.Conv3d)
    assert len(models.layer(model, "block4")) == 6
    with pytest.raises(ValueError, match="no layer 'block9'; there are .*'block4.3'"):
        models.layer(model, "block9")


def test_unknown_model_names_those_that_exist():
    with pytest.raises(ValueError, match="unknown model 'vgg'; there are .*'course'.*'kan2020'"):
        models.build("vgg")
    with pytest.raises(ValueError, match="at least one output, got 0"):
        models.build("course", 0)
