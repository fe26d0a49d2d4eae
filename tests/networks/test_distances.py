import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxiqa import networks
from jaxiqa.networks import NETWORKS, Distance
from jaxiqa.networks.lpips import TAPS
from jaxiqa.pretrained import key_map

torch = pytest.importorskip("torch")
nets = pytest.importorskip("torchvision_nets")
F = torch.nn.functional

BACKBONE = {"dists": "vgg16", "lpips_alex": "alexnet", "lpips_vgg": "vgg16", "lpips_squeeze": "squeezenet1_1"}
NAMES = sorted(BACKBONE)
WIDTH = 8


def arrays(name: str, seed: str = "0") -> tuple[dict, dict]:
    """Return the weights of a narrow network under the published names: of the distance and of the backbone."""
    spec = nnx.eval_shape(lambda: NETWORKS[name].build(width=WIDTH, rngs=nnx.Rngs(0)))
    if name == "dists":
        shapes = dict.fromkeys(("alpha", "beta"), (1, spec.alpha.size, 1, 1))
    else:
        sizes = [spec.weight[tap].size for tap in TAPS[BACKBONE[name]]]
        shapes = {f"lin{i}.model.1.weight": (1, size, 1, 1) for i, size in enumerate(sizes)}
    own = {key: np.abs(nets.random_array(key, shape, seed)) for key, shape in shapes.items()}
    return own, nets.weights(BACKBONE[name], WIDTH, seed)


def narrow(name: str, seed: str = "0") -> Distance:
    own, backbone = arrays(name, seed)
    model = nnx.eval_shape(lambda: NETWORKS[name].build(width=WIDTH, rngs=nnx.Rngs(0)))
    key_map.fill(model, own | backbone, NETWORKS[name].rules, source=name)
    return Distance(*nnx.split(model))


def pair(size: tuple[int, int] = (33, 46), noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Two images, and the same images with noise."""
    generator = np.random.default_rng(0)
    reference = generator.uniform(size=(2, *size, 3))
    distorted = np.clip(reference + noise * generator.standard_normal(reference.shape), 0, 1)
    return reference.astype(np.float32), distorted.astype(np.float32)


@jax.jit
def forward(distance, reference, distorted):
    return distance(reference, distorted)


@jax.jit
def backward(distance, reference, distorted):
    """Return the distances, and the gradients of their sum by either image."""

    def total(images):
        values = distance(*images)
        return values.sum(), values

    (_, values), gradients = jax.value_and_grad(total, has_aux=True)((reference, distorted))
    return values, gradients


def dists_by_the_paper(own, backbone, x, y):
    """Compute 1 − Σ (α l + β s), as in the paper."""
    window = torch.tensor([0.5, 1.0, 0.5], dtype=x.dtype)
    window = torch.outer(window, window) / 4

    def pool(x):
        squares = F.conv2d(x**2, window.expand(x.shape[1], 1, 3, 3), stride=2, padding=1, groups=x.shape[1])
        return torch.sqrt(squares + 1e-12)

    def maps(x):
        mean, std = (torch.tensor(v, dtype=x.dtype) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        return [x, *nets.features("vgg16", backbone, (x - mean.view(3, 1, 1)) / std.view(3, 1, 1), pool)]

    alpha, beta = (torch.as_tensor(own[key]).reshape(-1).to(x.dtype) for key in ("alpha", "beta"))
    similarity, start, total = 0, 0, alpha.sum() + beta.sum()
    for a, b in zip(maps(x), maps(y), strict=True):
        end = start + a.shape[1]
        mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
        var_a, var_b = a.var((2, 3), unbiased=False), b.var((2, 3), unbiased=False)
        covariance = (a * b).mean((2, 3)) - mean_a * mean_b
        texture = (2 * mean_a * mean_b + 1e-6) / (mean_a**2 + mean_b**2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (var_a + var_b + 1e-6)
        similarity = similarity + (texture * alpha[start:end] + structure * beta[start:end]).sum(1) / total
        start = end
    return 1 - similarity


def lpips_by_the_paper(own, backbone, x, y, name):
    shift, scale = (torch.tensor(v, dtype=x.dtype) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    maps = [nets.features(name, backbone, (2 * z - 1 - shift.view(3, 1, 1)) / scale.view(3, 1, 1)) for z in (x, y)]
    total = 0
    for i, (a, b) in enumerate(zip(*maps, strict=True)):
        a, b = (z / (torch.sqrt((z**2).sum(1, keepdim=True)) + 1e-10) for z in (a, b))
        head = torch.as_tensor(own[f"lin{i}.model.1.weight"]).to(a.dtype)
        total = total + F.conv2d((a - b) ** 2, head).mean((1, 2, 3))
    return total


@pytest.mark.parametrize(
    "name", [name if name == "lpips_squeeze" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_distances_and_gradients_are_those_of_the_formulas(name):
    """In float64: in float32 a ReLU may be open on one side only, which would hide errors."""
    own, backbone = arrays(name)
    images = [image.astype(np.float64) for image in pair()]
    tensors = [torch.tensor(image.transpose(0, 3, 1, 2), requires_grad=True) for image in images]
    if name == "dists":
        expected = dists_by_the_paper(own, backbone, *tensors)
    else:
        expected = lpips_by_the_paper(own, backbone, *tensors, BACKBONE[name])
    expected.sum().backward()
    distance = narrow(name)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda weight: weight.astype(np.float64), distance)
        found, gradients = jax.tree.map(np.asarray, backward(double, *images))
    worst = [np.max(np.abs(found / expected.detach().numpy() - 1))]
    for gradient, tensor in zip(gradients, tensors, strict=True):
        theirs = tensor.grad.numpy().transpose(0, 2, 3, 1)
        worst.append(np.linalg.norm(gradient - theirs) / np.linalg.norm(theirs))
    single = np.asarray(forward(distance, *pair()))
    assert single.dtype == np.float32
    print(name, "relative deviations of the distance and of both gradients:", worst, "in float32:", single / found - 1)
    assert max(worst) < 1e-9
    np.testing.assert_allclose(single, found, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_published_weights_give_the_recorded_distances(shared, name):
    """α, β and the linear heads are the published ones; weights of the backbones are generated from their names."""
    path = shared / "oracles" / "public" / "03_image_quality.json"
    record, stored = json.loads(path.read_text()), np.load(path.with_suffix(".npz"))
    if name == "dists":
        own = {"alpha": stored["dists_alpha"], "beta": stored["dists_beta"]}
    else:
        taps = range(len(TAPS[BACKBONE[name]]))
        own = {f"lin{i}.model.1.weight": stored[f"{name}_lin{i}"].reshape(1, -1, 1, 1) for i in taps}
    backbone = nets.weights(BACKBONE[name], 64, record["seed"])
    distance, worst = networks.load(name, weights=own, backbone_weights=backbone), 0.0
    for number in range(3):
        images = [np.float32(stored[f"pair{number}_{which}"][None] / 255) for which in ("ref", "dist")]
        worst = max(worst, abs(float(forward(distance, *images)[0]) / record["expected"][f"pair{number}"][name] - 1))
    print(name, "worst relative deviation:", worst)
    assert worst < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_distance_properties(name):
    """Zero with zero gradient for equal images; positive, symmetric and growing with noise; independent pairs."""
    distance, (reference, distorted) = narrow(name), pair()
    forth, (gradient, _) = backward(distance, reference, distorted)
    size = np.abs(gradient).max()
    for images in (reference, np.zeros_like(reference), np.ones_like(reference)):
        values, gradients = backward(distance, images, images)
        assert (values >= 0).all()
        assert values.max() < 1e-11
        assert np.abs(gradients[0]).max() < 1e-4 * size
        assert np.abs(gradients[1]).max() < 1e-4 * size
    np.testing.assert_allclose(backward(distance, distorted, reference)[0], forth, rtol=1e-5)
    near, _ = backward(distance, *pair(noise=0.02))
    assert (near > 0).all()
    assert (near < forth).all()
    assert np.isfinite(backward(distance, np.zeros_like(reference), np.ones_like(reference))[0]).all()
    swapped, _ = backward(distance, reference[::-1], distorted[::-1])
    np.testing.assert_allclose(swapped, forth[::-1], rtol=1e-5)
    replaced, _ = backward(distance, reference[[0, 0]], np.stack([distorted[0], reference[1]]))
    np.testing.assert_allclose(replaced[0], forth[0], rtol=1e-5)
    if name == "dists":
        assert backward(distance, reference, 1 - reference)[0].max() < 2


def test_the_features_of_a_reference_can_be_reused():
    distance, (reference, distorted) = narrow("lpips_alex"), pair()
    kept = jax.jit(lambda distance, x: distance.to(x))(distance, reference)
    found = jax.jit(lambda kept, y: kept(y))(kept, distorted)
    np.testing.assert_allclose(found, forward(distance, reference, distorted), rtol=1e-5)


def test_distances_of_one_kind_share_the_compiled_program():
    traced = []

    @jax.jit
    def run(distance, x, y):
        traced.append(x.shape)
        return distance(x, y)

    images = pair()
    results = [run(narrow("lpips_alex", seed), *images) for seed in ("0", "1")]
    assert len(traced) == 1
    assert not np.allclose(*results)


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_image_works_and_a_smaller_one_is_refused(name):
    distance = narrow(name)
    model = nnx.merge(distance.graphdef, distance.state)
    side = model.minimum
    reference, distorted = pair((side, side + 3))
    assert np.isfinite(forward(distance, reference, distorted)).all()
    if side == 1:
        return
    with pytest.raises(ValueError, match=rf"reference is {side - 1}x{side + 3}; both sides must be at least {side}"):
        distance.to(jnp.asarray(reference[:, 1:]))
    maps = nets.features(BACKBONE[name], arrays(name)[1], torch.zeros(1, 3, side, side))
    assert all(min(map.shape) > 0 for map in maps)
    with pytest.raises(RuntimeError):  # the term of torch
        nets.features(BACKBONE[name], arrays(name)[1], torch.zeros(1, 3, side - 1, side - 1))


def test_pairs_that_do_not_fit_are_refused():
    distance = narrow("dists")
    x = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"distorted has shape \(1, 8, 9, 3\), reference has \(1, 8, 8, 3\)"):
        distance.to(x)(jnp.zeros((1, 8, 9, 3)))


def test_a_pixel_without_features_has_a_finite_gradient():
    own, backbone = arrays("lpips_alex")
    backbone = {key: np.full_like(array, -1) if "features.6" in key else array for key, array in backbone.items()}
    model = nnx.eval_shape(lambda: NETWORKS["lpips_alex"].build(width=WIDTH, rngs=nnx.Rngs(0)))
    key_map.fill(model, own | backbone, NETWORKS["lpips_alex"].rules, source="demo")
    images = pair()
    _, maps = model.backbone.run(jnp.asarray(images[0]), taps=("relu3",))
    assert not maps["relu3"].any()
    for gradient in backward(Distance(*nnx.split(model)), *images)[1]:
        assert np.isfinite(gradient).all()
        assert gradient.any()


def published(seed: str = "0") -> tuple[dict, dict]:
    sizes = (64, 192, 384, 256, 256)
    own = {f"lin{i}.model.1.weight": np.full((1, size, 1, 1), 0.1, np.float32) for i, size in enumerate(sizes)}
    return own, nets.weights("alexnet", 64, seed)


def test_weights_load_from_files_without_the_classifier(tmp_path):
    own, backbone = published()
    backbone["classifier.6.bias"] = np.zeros(1000, np.float32)
    for name, content in (("own", own), ("backbone", backbone)):
        safetensors.numpy.save_file(content, tmp_path / f"{name}.safetensors")
    read = networks.load(
        "lpips_alex", weights=tmp_path / "own.safetensors", backbone_weights=tmp_path / "backbone.safetensors"
    )
    given = networks.load("lpips_alex", weights=own, backbone_weights=backbone)
    assert read.graphdef == given.graphdef
    assert all(map(np.array_equal, jax.tree.leaves(read.state), jax.tree.leaves(given.state)))


def test_weights_that_do_not_fit_are_listed(tmp_path):
    own, backbone = published()
    own["lin4.model.1.weight"] = own["lin4.model.1.weight"].reshape(2, 128, 1, 1)
    own["lin5.model.1.weight"] = np.zeros((1, 512, 1, 1))
    del backbone["features.8.bias"]
    safetensors.numpy.save_file(backbone, tmp_path / "alexnet.safetensors")
    with pytest.raises(ValueError, match="does not fit") as caught:
        networks.load("lpips_alex", weights=own, backbone_weights=tmp_path / "alexnet.safetensors")
    assert str(caught.value).splitlines() == [
        f"weights and backbone_weights={str(tmp_path / 'alexnet.safetensors')!r} does not fit:",
        "  lin4.model.1.weight: has shape (2, 128, 1, 1), which does not fit weight.relu5 (256,)",
        "  lin5.model.1.weight: unknown",
        "  backbone.stage.relu4.conv.bias: missing",
    ]
    with pytest.raises(ValueError, match=r"weights and backbone_weights both hold lin0\.model\.1\.weight"):
        networks.load("lpips_alex", weights=own, backbone_weights=own)
