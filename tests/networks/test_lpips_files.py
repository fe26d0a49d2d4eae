"""A perceptual distance loads from its two published files, also where PyTorch is not installed."""

import numpy as np
import pytest
import safetensors.numpy
import stand_ins

from jaxiqa import networks


def test_lpips_loads_from_the_files_of_its_authors_and_its_backbone(tmp_path):
    own, backbone = tmp_path / "squeeze.pth", tmp_path / "squeezenet1_1.pth"
    safetensors.numpy.save_file(stand_ins.lpips_heads(), own)
    safetensors.numpy.save_file(stand_ins.squeezenet(), backbone)
    distance = networks.load("lpips_squeeze", weights=own, backbone_weights=backbone)
    assert not distance.fresh
    np.testing.assert_array_equal(distance.module().weight["fire9"][...], np.full(512, 0.1, np.float32))
    with pytest.raises(ValueError, match="option of lpips_squeeze='backbone' is not allowed; choose from 'width'"):
        networks.load("lpips_squeeze", weights=own, backbone_weights=backbone, backbone="alexnet")
