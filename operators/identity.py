"""Identity, y = x: the operator of denoising, and of a part of a stack that measures the image itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import LinearOperator, check_images, check_sizes
from .sizes import Sizes


class Identity(LinearOperator):
    """Leave images as they are, y = x.

    Args:
        shape: (H, W) of the images in pixels, or (D, H, W) of volumes.

    >>> import torch
    >>> A = Identity((1, 2))
    >>> (3 * A - A).A(torch.ones(1, 1, 1, 2))
    tensor([[[[2., 2.]]]])
    """

    y_is_sampled = None

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = check_sizes("Identity", shape)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (C, H, W) of an image's measurements, (C, D, H, W) of a volume's."""
        return self.x_shape

    @property
    def x_shape(self) -> Sizes:
        """Sizes (C, H, W) of an image, (C, D, H, W) of a volume."""
        return ("C", *self.shape)

    def A(self, x: Tensor, /) -> Tensor:
        """Return x (B, C, H, W) itself."""
        check_images("Identity.A", "x", x, self.x_shape)
        return x

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Return y (B, C, H, W) itself."""
        check_images("Identity.A_adjoint", "y", y, self.x_shape)
        return y

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Return x (B, C, H, W) itself."""
        check_images("Identity.A_adjoint_A", "x", x, self.x_shape)
        return x

    def data_step(self, y: Tensor, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return h(z, alpha) = (w y + alpha z)/(w + alpha) for any weights w."""
        check_images("Identity.data_step", "y", y, self.x_shape)
        w = weights.to(y.dtype)
        return lambda z, alpha: (w * y + alpha * z) / (w + alpha)

    def extra_repr(self) -> str:
        """Describe the constructor's argument."""
        return f"{self.shape}"
