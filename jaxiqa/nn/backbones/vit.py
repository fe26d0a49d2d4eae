"""The vision transformer, as in timm, up to the last block that MANIQA reads.

"An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", arXiv:2010.11929.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.transformer import MLP, SelfAttention, layer_norm
from jaxiqa.pretrained import key_map


class PatchEmbed(nnx.Module):
    """Apply a linear map to each patch of ``size`` × ``size`` pixels: a convolution whose windows do not overlap."""

    def __init__(self, size: int, features: int, *, rngs: nnx.Rngs):
        self.size = size
        self.proj = nnx.Linear(size * size * 3, features, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        b, h, w, c = x.shape
        s = self.size
        patches = x.reshape(b, h // s, s, w // s, s, c).transpose(0, 1, 3, 2, 4, 5)
        return self.proj(patches.reshape(b, (h // s) * (w // s), s * s * c))


class Block(nnx.Module):
    """Compute ``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``."""

    def __init__(self, features: int, heads: int, *, rngs: nnx.Rngs):
        self.norm1 = layer_norm(features, epsilon=1e-6, rngs=rngs)
        self.attn = SelfAttention(features, heads, rngs=rngs)
        self.norm2 = layer_norm(features, epsilon=1e-6, rngs=rngs)
        self.mlp = MLP(features, 4 * features, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    """Map images to features: the outputs of some blocks side by side, without the class token.

    Args:
        size: (height, width) of the images; the position embeddings fit this size.
        patch: side of a patch; it divides both.
        features: channels of a token.
        heads: of every attention, divides ``features``.
        taps: the blocks to read, in ascending order; blocks after the last one are not built.
        rngs: random numbers for the weights.

    >>> import jax
    >>> vit = nnx.eval_shape(lambda: ViT((16, 24), patch=8, features=12, heads=3, taps=(0, 2), rngs=nnx.Rngs(0)))
    >>> nnx.eval_shape(lambda net, x: net(x), vit, jnp.zeros((1, 16, 24, 3))).shape
    (1, 2, 3, 24)
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        patch: int,
        features: int,
        heads: int,
        taps: tuple[int, ...],
        rngs: nnx.Rngs,
    ):
        self.grid = (size[0] // patch, size[1] // patch)
        self.taps = taps
        self.patch_embed = PatchEmbed(patch, features, rngs=rngs)
        tokens = self.grid[0] * self.grid[1] + 1
        init = nnx.initializers.normal(0.02)
        self.cls_token = nnx.Param(init(rngs.params(), (1, 1, features), jnp.float32))
        self.pos_embed = nnx.Param(init(rngs.params(), (1, tokens, features), jnp.float32))
        self.block = nnx.List([Block(features, heads, rngs=rngs) for _ in range(taps[-1] + 1)])

    @property
    def parts(self) -> tuple[str, ...]:
        """Names that `tokens` accepts: ``patch_embed``, ``block0``, ``block1`` …"""
        return ("patch_embed", *(f"block{i}" for i in range(len(self.block))))

    def tokens(self, x: Float[Array, "b h w 3"], names: Sequence[str]) -> dict[str, Float[Array, "b n c"]]:
        """Return outputs of `parts` by name; those of blocks begin with the class token."""
        found = {"patch_embed": self.patch_embed(x)}
        cls_token = jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, self.cls_token.shape[-1]))
        y = jnp.concatenate([cls_token, found["patch_embed"]], axis=1) + self.pos_embed[...]
        for i in range(max((self.parts.index(name) for name in names), default=0)):
            found[f"block{i}"] = y = self.block[i](y)
        return {name: found[name] for name in names}

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        maps = self.tokens(x, [f"block{i}" for i in self.taps]).values()
        return jnp.concatenate([y[:, 1:] for y in maps], axis=-1).reshape(x.shape[0], *self.grid, -1)


def patch_kernel(array: np.ndarray) -> np.ndarray:
    """Reshape ``cout 3 kh kw`` -> ``kh·kw·3 cout``."""
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


def rules(blocks: int, *, prefix: str = "") -> tuple[key_map.Rule, ...]:
    """Return conversion rules from timm's parameter names.

    Args:
        blocks: number of blocks; further blocks of the checkpoint and all that follows them are dropped.
        prefix: regular expression of the text before timm's names.
    """
    kept = "|".join(map(str, range(blocks)))
    source, target = rf"{prefix}blocks\.({kept})", r"block.\1"
    return (
        (rf"{prefix}(cls_token|pos_embed)", r"\1", key_map.same),
        (rf"{prefix}patch_embed\.proj\.weight", "patch_embed.proj.kernel", patch_kernel),
        (rf"{prefix}patch_embed\.proj\.bias", "patch_embed.proj.bias", key_map.same),
        *key_map.layer_norm(rf"{source}\.norm(\d)", rf"{target}.norm\2"),
        *key_map.linear(rf"{source}\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)", rf"{target}.\2"),
        (rf"{prefix}(blocks\.\d+|norm|head)\..*", None, key_map.same),
    )
