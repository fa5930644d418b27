import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from helpers import viewers
from helpers.cohorts import Cohort, Truth
from helpers.viewers import display
from helpers.viewers.explorer import Browser


@pytest.fixture
def cohort(phantom):
    volumes = torch.stack([phantom.volume, phantom.volume.flip(1), phantom.volume.flip(2)])
    masks = torch.stack([phantom.mask, phantom.mask.flip(1), phantom.mask & False])
    return Cohort(
        volumes=volumes,
        labels=torch.tensor([1, 0, 1]),
        classes=("left", "right"),
        participants=pd.DataFrame({"participant_id": ["a", "b", "c"]}),
        grid=phantom.grid,
        truth=Truth(mask=masks, place=masks, shortcut=masks & False),
    )


@pytest.fixture
def model(phantom):
    """The logits are the means of the left and of the right half."""

    class Halves(nn.Module):
        def forward(self, volumes):
            return 500 * torch.stack(
                [volumes[:, 0, :8].mean((1, 2, 3)), volumes[:, 0, 8:].mean((1, 2, 3))], 1
            )

    return Halves().train()


class Counting:
    """A method that notes what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, model, volumes, target=None):
        self.calls.append(target)
        return volumes - 0.1 * (3 if target is None else target)


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv(display.STATIC_VARIABLE, raising=False)


@pytest.mark.usefixtures("live")
def test_choices_redraw_the_picture(cohort, model):
    method = Counting()
    browser = viewers.explore(cohort, model, {"shift": method})
    assert isinstance(browser, Browser)
    assert browser.verdict.value.startswith("subject 0, true class: right, network: right (")
    seen = {bytes(browser.picture.value)}
    for change in (
        lambda: setattr(browser.subject, "value", 1),
        lambda: setattr(browser.target, "value", 1),
        lambda: setattr(browser.opacity, "value", 0.3),
        lambda: setattr(browser.threshold, "value", 0.9),
        lambda: setattr(browser.position[2], "value", 4),
        lambda: setattr(browser.method, "value", "none"),
    ):
        change()
        assert bytes(browser.picture.value) not in seen
        seen.add(bytes(browser.picture.value))
    assert method.calls == [None, None, 1]
    browser.method.value = "shift"
    assert method.calls == [None, None, 1], "an answer is computed once"
    assert model.training, "the model is left as it was found"


@pytest.mark.usefixtures("live")
def test_a_new_subject_moves_to_its_truth(cohort):
    browser = viewers.explore(cohort)
    assert [slider.value for slider in browser.position] == [12, 13, 19]
    browser.subject.value = 1
    assert [slider.value for slider in browser.position] == [3, 13, 19]


@pytest.mark.usefixtures("live")
def test_volumes_alone_need_no_model(phantom):
    for volume in (phantom.volume, phantom.volume[0].numpy(), phantom.volume[None]):
        browser = viewers.explore(volume, grid=phantom.grid)
        assert bytes(browser.picture.value).startswith(b"RIFF")


def test_a_static_page_gets_a_figure_with_every_method(cohort, model, monkeypatch):
    monkeypatch.setenv(display.STATIC_VARIABLE, "1")
    methods = {"shift": Counting(), "other": Counting()}
    figure = viewers.explore(cohort, model, methods, subject=1, title="Two methods")
    labels = [button.label for button in figure.layout.updatemenus[0].buttons]
    assert labels == ["shift", "other", "no map"]
    assert figure.layout.title.text.startswith("Two methods: subject 1, true class: left")
    assert viewers.explore(cohort).layout.title.text == "Subject 0, true class: right"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": np.ones((3, 4, 5))}, "need their grid"),
        ({"subject": 3}, "subject is 0 to 2, got 3"),
        ({"methods": {"a": Counting()}}, "give the model as well"),
    ],
)
def test_errors_say_what_is_wrong(cohort, options, message):
    options = {"source": cohort} | options
    with pytest.raises(ValueError, match=message):
        viewers.explore(options.pop("source"), **options)


def test_a_map_of_another_shape_is_refused(cohort, model):
    methods = {"flat": lambda model, volumes, target=None: volumes.mean(-1)}
    with pytest.raises(ValueError, match="'flat' returned a map of shape"):
        viewers.explore(cohort, model, methods)
