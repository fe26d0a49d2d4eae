"""Feature extractors: `BACKBONES` maps a name to how to build it and how to read its published weights."""

from jaxiqa.nn.backbones.alexnet import ALEXNET
from jaxiqa.nn.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from jaxiqa.nn.backbones.inception_resnet_v2 import INCEPTION_RESNET_V2
from jaxiqa.nn.backbones.mobilenet_v2 import MOBILENET_V2, MOBILENET_V2_TORCH
from jaxiqa.nn.backbones.resnet import RESNET18, RESNET50, RESNET101, RESNEXT101_32X8D
from jaxiqa.nn.backbones.squeezenet import SQUEEZENET1_1
from jaxiqa.nn.backbones.vgg import VGG16

BACKBONES = {
    "efficientnet_lite0": EFFICIENTNET_LITE0,
    "inception_resnet_v2": INCEPTION_RESNET_V2,
    "mobilenet_v2": MOBILENET_V2,
    "mobilenet_v2_torch": MOBILENET_V2_TORCH,
    "resnet18": RESNET18,
    "resnet50": RESNET50,
    "resnet101": RESNET101,
    "resnext101_32x8d": RESNEXT101_32X8D,
    "vgg16": VGG16,
    "alexnet": ALEXNET,
    "squeezenet1_1": SQUEEZENET1_1,
}

BACKBONES_WITH_LEVELS = tuple(name for name, spec in BACKBONES.items() if spec.levels)
"""Names of the backbones that a head over four levels can read."""
