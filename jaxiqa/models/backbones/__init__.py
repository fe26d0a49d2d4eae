"""Feature extractors: `BACKBONES` maps a name to how it is built and what its published weights look like."""

from jaxiqa.models.backbones.alexnet import ALEXNET
from jaxiqa.models.backbones.inception_resnet_v2 import INCEPTION_RESNET_V2
from jaxiqa.models.backbones.mobilenet_v2 import MOBILENET_V2, MOBILENET_V2_TORCH
from jaxiqa.models.backbones.resnet import RESNET18, RESNET50, RESNET101, RESNEXT101_32X8D
from jaxiqa.models.backbones.squeezenet import SQUEEZENET1_1
from jaxiqa.models.backbones.vgg import VGG16

BACKBONES = {
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
