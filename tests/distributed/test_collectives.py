"""Collectives: values and gradients of two processes equal those of one."""

import numpy as np
import torch
from torch import nn

from pretraining.distributed.batchnorm import SyncBatchNorm, convert_batchnorm
from pretraining.distributed.collectives import gather_with_gradient
from tests.ranks import in_ranks, start_group


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64) * 5 + 100


def network():
    torch.manual_seed(1)
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4), nn.BatchNorm1d(4)
    )
    return layers.double()


def one_pass(net, inputs):
    output = net(inputs)
    (output**3).sum().backward()
    return output


def sync_rank(rank, world):
    start_group(rank, world)
    net, inputs = convert_batchnorm(network()), data()
    # Unequal shares: 4 examples on rank 0, 2 on rank 1.
    output = one_pass(net, inputs[:4] if rank == 0 else inputs[4:])
    return (
        output.detach().numpy(),
        {name: parameter.grad.numpy() for name, parameter in net.named_parameters()},
        {name: buffer.double().numpy() for name, buffer in net.named_buffers()},
    )


def test_synchronised_batch_norm_on_two_ranks_is_batch_norm_on_one():
    net = network()
    output = one_pass(net, data()).detach().numpy()
    ranks = in_ranks(sync_rank, 2)
    assert np.allclose(np.concatenate([part[0] for part in ranks]), output, atol=1e-9)
    for name, parameter in net.named_parameters():
        assert np.allclose(sum(part[1][name] for part in ranks), parameter.grad.numpy(), rtol=1e-8, atol=1e-8), name
    for name, buffer in net.named_buffers():
        for part in ranks:
            assert np.allclose(part[2][name], buffer.double().numpy(), rtol=1e-9), name


def gather_rank(rank, world):
    start_group(rank, world)
    tensor = (torch.arange(6.0, dtype=torch.float64).view(3, 2) + 10 * rank).requires_grad_()
    gathered = gather_with_gradient(tensor)
    weight = torch.arange(12.0, dtype=torch.float64).view(6, 2) * (rank + 1)
    (gathered**2 * weight).sum().backward()
    return gathered.detach().numpy(), tensor.grad.numpy()


def test_gathering_passes_back_the_gradient_of_the_sum_over_ranks():
    ranks = in_ranks(gather_rank, 2)
    everything = np.concatenate([np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(3, 2) + 10])
    weight = np.arange(12.0).reshape(6, 2) * (1 + 2)
    for rank, (gathered, gradient) in enumerate(ranks):
        assert np.array_equal(gathered, everything)
        assert np.allclose(gradient, (2 * everything * weight)[3 * rank : 3 * rank + 3])


def test_without_a_group_everything_is_the_identity():
    tensor = torch.randn(3, 2)
    assert gather_with_gradient(tensor) is tensor
    plain, synced = nn.BatchNorm2d(3), SyncBatchNorm(3)
    inputs = torch.randn(4, 3, 5, 5)
    assert torch.equal(plain(inputs), synced(inputs))
    assert torch.equal(plain.running_var, synced.running_var)


def test_conversion_keeps_weights_statistics_and_names():
    net = network().float()
    net[1].running_mean.uniform_()
    net[5].requires_grad_(False)
    before, weights = {name: value.clone() for name, value in net.state_dict().items()}, list(net.parameters())
    after = convert_batchnorm(net).state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(new is old for new, old in zip(net.parameters(), weights, strict=True))
    assert not net[5].weight.requires_grad and net[1].weight.requires_grad
    assert isinstance(net[1], SyncBatchNorm) and isinstance(net[5], SyncBatchNorm)
