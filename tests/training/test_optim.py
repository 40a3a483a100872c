"""LARS against its published pseudocode in NumPy."""

import copy
import io
import pickle

import numpy
import pytest
import torch

import openhpo as hpo
from openhpo.training.optim import LARS
from openhpo.training.states import lift, lower


def by_hand(w, v, g, lr, momentum=0.9, decay=0.0, trust=0.001):
    """One step of Algorithm 1 of the paper for one layer; the new weights and velocity."""
    norm_w, norm_g = numpy.sqrt((w**2).sum()), numpy.sqrt((g**2).sum())
    ratio = trust * norm_w / (norm_g + decay * norm_w) if norm_w > 0 and norm_g > 0 else 1.0
    v = momentum * v + lr * ratio * (g + decay * w)
    return w - v, v


def stepped(optimizer, *pairs):
    """Take one step with these gradients."""
    for tensor, gradient in pairs:
        tensor.grad = torch.as_tensor(gradient, dtype=tensor.dtype)
    optimizer.step()


def layer(*shape, dtype=torch.float64, seed=0):
    return torch.nn.Parameter(torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)))


def gradients(*shape, steps, scale=1.0):
    return scale * numpy.random.default_rng(1).normal(size=(steps, *shape))


@pytest.mark.parametrize("shape", [(4, 3), (5, 2, 3, 3)])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}, {"decay": 0.01}, {"decay": 0.3, "trust": 0.02, "momentum": 0.5}])
def test_lars_is_the_published_algorithm(shape, options):
    names = {"decay": "weight_decay", "trust": "trust_coefficient"}
    weights = layer(*shape)
    optimizer = LARS([weights], lr=1.0, **{names.get(name, name): value for name, value in options.items()})
    w, v = weights.detach().numpy().copy(), numpy.zeros(shape)
    for step, g in enumerate(gradients(*shape, steps=6)):
        lr = 20.0 / (step + 1)  # which changes from step to step
        optimizer.param_groups[0]["lr"] = lr
        stepped(optimizer, (weights, g))
        w, v = by_hand(w, v, g, lr, **options)
        numpy.testing.assert_allclose(weights.detach().numpy(), w, rtol=1e-12)


def test_each_layer_has_a_rate_of_its_own():
    small, large = layer(3, 3), layer(4, 4, seed=1)
    with torch.no_grad():
        large.mul_(100)
    before = small.detach().clone(), large.detach().clone()
    stepped(LARS([small, large], lr=2.0), (small, gradients(3, 3, steps=1)[0]), (large, gradients(4, 4, steps=1)[0]))
    for weights, old in zip((small, large), before, strict=True):
        assert ((weights - old).norm() / old.norm()).item() == pytest.approx(2.0 * 0.001)


def test_biases_and_scales_are_stepped_as_by_sgd_without_weight_decay():
    ours, theirs = layer(7), layer(7)
    lars = LARS([ours], lr=0.1, momentum=0.8, weight_decay=0.5)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.8)
    for g in gradients(7, steps=5):
        stepped(lars, (ours, g))
        stepped(sgd, (theirs, g))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_a_group_may_adapt_and_decay_its_biases_too():
    bias = layer(7)
    w, v = bias.detach().numpy().copy(), numpy.zeros(7)
    optimizer = LARS([{"params": [bias], "exclude": False}], lr=3.0, weight_decay=0.1)
    for g in gradients(7, steps=3):
        stepped(optimizer, (bias, g))
        w, v = by_hand(w, v, g, 3.0, decay=0.1)
        numpy.testing.assert_allclose(bias.detach().numpy(), w, rtol=1e-12)


def test_weights_that_are_zero_are_stepped_as_by_sgd():
    weights = torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
    g = gradients(3, 2, steps=1)[0]
    stepped(LARS([weights], lr=0.5, weight_decay=0.1), (weights, g))
    numpy.testing.assert_allclose(weights.detach().numpy(), -0.5 * g)


def test_gradients_that_are_zero_leave_only_the_weight_decay():
    weights, both = layer(3, 2), torch.nn.Parameter(torch.zeros(3, 2))
    old = weights.detach().clone()
    optimizer = LARS([weights, both], lr=0.5, weight_decay=0.1)
    stepped(optimizer, (weights, numpy.zeros((3, 2))), (both, numpy.zeros((3, 2))))
    torch.testing.assert_close(weights.detach(), old * (1 - 0.5 * 0.1))
    assert torch.equal(both, torch.zeros(3, 2))


def test_parameters_without_a_gradient_stay():
    weights, frozen = layer(3, 2), layer(2, 2)
    old = frozen.detach().clone()
    stepped(LARS([weights, frozen], lr=1.0), (weights, gradients(3, 2, steps=1)[0]))
    assert torch.equal(frozen, old)


@pytest.mark.parametrize("factor", [1000.0, 1e-3])
def test_the_scale_of_the_gradients_does_not_matter(factor):
    one, other = layer(4, 3), layer(4, 3)
    mine, scaled = LARS([one], lr=5.0), LARS([other], lr=5.0)
    for g in gradients(4, 3, steps=4):
        stepped(mine, (one, g))
        stepped(scaled, (other, factor * g))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_norms_of_half_precision_do_not_overflow():
    weights = torch.nn.Parameter(torch.full((100, 100), 300.0, dtype=torch.float16))
    stepped(LARS([weights], lr=10.0, momentum=0.0), (weights, numpy.full((100, 100), 400.0)))
    assert torch.allclose(weights, torch.tensor(297.0, dtype=torch.float16))


def test_it_reduces_a_loss_through_a_closure():
    model = torch.nn.Linear(5, 1, bias=False)
    x = torch.randn(64, 5)
    optimizer = LARS(model.parameters(), lr=5.0)

    def closure():
        optimizer.zero_grad()
        loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(100)]
    assert losses[-1] < losses[0] / 5


def through_torch_save(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


CARRIERS = {
    "copied": copy.deepcopy,
    "pickled": lambda state: pickle.loads(pickle.dumps(state)),
    "saved": through_torch_save,
}


def model_and_optimizer():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    return model, LARS(model.parameters(), lr=4.0, momentum=0.7, weight_decay=0.01)


def train(model, optimizer, steps):
    for step in steps:
        x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("carrier", [*CARRIERS, "lowered"])
def test_training_goes_on_bit_for_bit_from_a_state(carrier):
    model, optimizer = model_and_optimizer()
    train(model, optimizer, range(3))
    if carrier == "lowered":
        states = lift(lower({"model": model, "optimizer": optimizer}))
    else:
        states = CARRIERS[carrier]({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, range(3, 6))
    model2, optimizer2 = model_and_optimizer()
    optimizer2.param_groups[0].update(lr=1.0, momentum=0.0)
    model2.load_state_dict(states["model"])
    optimizer2.load_state_dict(states["optimizer"])
    train(model2, optimizer2, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), model2.parameters(), strict=True))


@pytest.mark.parametrize("carry", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copied", "pickled"])
def test_model_and_optimizer_are_copied_whole(carry):
    both = model_and_optimizer()
    train(*both, range(3))
    others = carry(both)
    train(*both, range(3, 6))
    train(*others, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(both[0].parameters(), others[0].parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"lr": -1.0}, "LARS: lr has to be a number at least 0, not -1.0"),
        ({"lr": float("nan")}, "lr has to be a number at least 0, not nan"),
        ({"lr": "1.0"}, "lr has to be a number at least 0, not '1.0'"),
        ({"lr": 1.0, "momentum": 1.0}, "momentum has to be a number below 1, not 1.0"),
        ({"lr": 1.0, "momentum": -0.1}, "momentum has to be a number at least 0"),
        ({"lr": 1.0, "weight_decay": -1e-4}, "weight_decay has to be a number at least 0"),
        ({"lr": 1.0, "trust_coefficient": 0.0}, "trust_coefficient has to be a number above 0, not 0.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, complaint):
    with pytest.raises(hpo.UserError, match=complaint):
        LARS([layer(2, 2)], **options)
    with pytest.raises(hpo.UserError, match=complaint):
        LARS([{"params": [layer(2, 2)], **options}], lr=1.0)
