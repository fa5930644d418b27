"""Ask for the lead of a class instead of its logit: what is decided is a difference.

A logit says how much speaks for a class. Who is called ill depends on how much more speaks for it
than for the others. A map of one logit of two can so leave out half of the decision.
"""

import torch
from torch import nn


def centred(model: nn.Module, classes: int) -> nn.Module:
    """Return a network whose logits are by how much each class leads the mean of all.

    With two classes, that is half the difference of the two logits. The probabilities stay the
    same. It is one linear layer more, so every method of attribution can explain it.

    Parameters
    ----------
    model : Module
        A classifier with one logit a class. It is not copied; its ``card``, if it has one, goes
        along.
    classes : int
        How many logits it has, 2 or more.

    Raises
    ------
    ValueError
        If there are fewer than two classes.

    Examples
    --------
    >>> import torch
    >>> from helpers import models
    >>> network, volumes = models.build("course"), torch.rand(3, 1, 16, 20, 24)
    >>> logits = models.predict(network, volumes)
    >>> leads = models.predict(models.centred(network, 2), volumes)
    >>> torch.allclose(leads[:, 1], (logits[:, 1] - logits[:, 0]) / 2, atol=1e-5)
    True
    """
    if classes < 2:
        raise ValueError(f"a lead needs two classes or more, got {classes}")
    lead = nn.Linear(classes, classes, bias=False)
    with torch.no_grad():
        lead.weight.copy_(torch.eye(classes) - 1 / classes)
    network = nn.Sequential(model, lead.to(next(model.parameters(), lead.weight)))
    if hasattr(model, "card"):
        network.card = model.card
    return network.train(model.training)
