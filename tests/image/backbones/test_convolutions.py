"""ResNets' convolutions in bf16 on CPUs: each kind has the gradients of fp32, also where freed memory holds huge
numbers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from pretraining.image.backbones.torchvision_model import TorchvisionBackbone

CODE = """
import json, sys, torch
from torch import nn
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone

torch.set_num_threads(1)
torch.manual_seed(0)
found = []
for kwargs, size in json.loads(sys.argv[1]):
    backbone, seen = TorchvisionBackbone(**kwargs).to(memory_format=torch.channels_last), {}
    for part in backbone.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda part, inputs, _: seen.__setitem__((str(part), inputs[0].shape), part))
    with torch.no_grad():
        backbone(torch.randn(5, 3, size, size))
    assert len(seen) >= 8
    for (name, shape), convolution in seen.items():
        images = torch.randn(shape).contiguous(memory_format=torch.channels_last).bfloat16()
        weight, results, slope = convolution.weight.detach().bfloat16(), [], None
        options = {"stride": convolution.stride, "padding": convolution.padding, "groups": convolution.groups}
        for dtype in (torch.float32, torch.bfloat16, torch.bfloat16):
            x, w = (part.to(dtype, copy=True).requires_grad_() for part in (images, weight))
            y = nn.functional.conv2d(x, w, **options)
            slope = torch.randn_like(y).bfloat16() if slope is None else slope
            y.backward(slope.to(dtype))
            results.append([part.float() for part in (y, x.grad, w.grad)])
        errors = [float((a - b).norm() / b.norm()) for other in results[1:] for a, b in zip(other, results[0])]
        found.append([name, list(shape), max(errors) if all(e == e for e in errors) else None])
print(json.dumps(found))
"""
NETWORKS = [
    ({"name": "resnet18", "stem": "cifar"}, 32),
    ({"name": "resnet", "stem": "cifar", "layers": [1, 1, 1, 1], "width": 24}, 16),
    ({"name": "resnet50"}, 64),
    ({"name": "resnext50_32x4d", "stem": "cifar"}, 16),
]


def test_every_convolution_of_resnets_has_the_gradients_of_fp32_in_bf16():
    poison = os.environ | {"MALLOC_PERTURB_": "128"}  # glibc fills what it hands out with 0x7f: 3e38 in fp32 and bf16
    command, root = [sys.executable, "-c", CODE, json.dumps(NETWORKS)], Path(__file__).resolve().parents[3]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=poison).stdout
    for name, shape, error in json.loads(shown.splitlines()[-1]):
        assert error is not None and error < 0.01, (name, shape, error)


def test_only_checked_networks_say_that_their_convolutions_are():
    assert not TorchvisionBackbone(name="resnet18").convolves
    assert TorchvisionBackbone(name="vgg11").convolves
