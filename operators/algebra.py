"""Algebra of operators: Python's signs combine operators into operators.

    A @ B               y = A (B x)             c * A, A / c, -A    y = c A x, c a real number
    A + B, A - B        y = A x + B x           A.T                 A*, of measurements to images
    stack([A, B])       y = (A x, B x)

B may be any object with `A(x)` and `A_adjoint(y)`, e.g. deepinv's. Every adjoint is exact where A's and B's are. A
combination has an optional method (`data_step`, `preconditioner`, `subset`, ...) where it follows exactly from its
parts'. Such methods are properties: where a part lacks the method, so does the combination, by its AttributeError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .base import COMBINATIONS, LinearOperator
from .operands import apply_normal, as_operands, as_scale, formula_or_class, is_operator, is_sampled
from .sizes import Sizes, fit, fixed, resolved, shown, sizes_of

_Step = Callable[[Tensor, Tensor], Tensor]


class Scaled(LinearOperator):
    """c A with all of A's methods, rescaled by w ||c A x - y||^2 = c^2 w ||A x - y/c||^2."""

    def __init__(self, c: float, operator: Any) -> None:
        super().__init__()
        self.c, self.operator = c, operator
        _take_shape(self, operator)

    @property
    def x_shape(self) -> Sizes | None:
        """Sizes of an image, as A's."""
        return sizes_of(self.operator, "x_shape")

    @property
    def y_shape(self) -> Sizes | None:
        """Sizes of an image's measurements, as A's."""
        return sizes_of(self.operator, "y_shape")

    def A(self, x: Tensor, /) -> Tensor:
        """Return c A x."""
        y: Tensor = self.c * self.operator.A(x)
        return y

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Return c A* y."""
        x: Tensor = self.c * self.operator.A_adjoint(y)
        return x

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Return c^2 A* A x."""
        return self.c**2 * apply_normal(self.operator, x)

    @property
    def data_step(self) -> Callable[[Tensor, Tensor], _Step | None]:
        """A's data step for y/c and c^2 w, where A has one."""
        data_step = self.operator.data_step
        return lambda y, weights: data_step(y / self.c, self.c**2 * weights)

    @property
    def preconditioner(self) -> Callable[[Tensor], _Step | None]:
        """A's preconditioner for c^2 w, where A has one."""
        preconditioner = self.operator.preconditioner
        return lambda weights: preconditioner(self.c**2 * weights)

    @property
    def fbp(self) -> Callable[..., Tensor]:
        """A's direct inverse of y/c, where A has one."""
        fbp = self.operator.fbp
        return lambda y, *args, **options: fbp(y / self.c, *args, **options)

    @property
    def sees_whole_image(self) -> bool:
        """Whether A's `fbp` is free of truncation."""
        return bool(self.operator.sees_whole_image)

    @property
    def is_truncated(self) -> Callable[[Tensor], list[bool]]:
        """A's answer for y/c, where A has one."""
        is_truncated = self.operator.is_truncated
        return lambda y: is_truncated(y / self.c)  # type: ignore[no-any-return]

    @property
    def image_size(self) -> Callable[[Tensor], int]:
        """A's answer for y/c, where A has one."""
        image_size = self.operator.image_size
        return lambda y: int(image_size(y / self.c))

    @property
    def estimate_noise(self) -> Callable[[Tensor], float]:
        """|c| times A's estimate from y/c, where A has one."""
        estimate = self.operator.estimate_noise
        return lambda y: abs(self.c) * float(estimate(y / self.c))

    @property
    def y_is_sampled(self) -> bool | None:  # type: ignore[override]
        """Whether neighbours in y are neighbours on a grid, as A's."""
        return is_sampled(self.operator)

    @property
    def y_gain(self) -> Tensor:
        """Gains of the measurements, |c| times A's, where A has them."""
        gain: Tensor = abs(self.c) * self.operator.y_gain
        return gain

    @property
    def concerns(self) -> Callable[[Tensor], list[str]]:
        """A's concerns about y/c, where A has any."""
        concerns = self.operator.concerns
        return lambda y: concerns(y / self.c)

    @property
    def subset(self) -> Callable[[int, int], LinearOperator]:
        """c times A's operator of the views b, b + n, ..., where A has subsets."""
        subset = self.operator.subset
        return lambda b, n: Scaled(self.c, subset(b, n))

    def __repr__(self) -> str:
        return ("-" if self.c == -1 else f"{self.c!r} * ") + _text(self.operator)


class Composed(LinearOperator):
    """A B: first B, then A. Without a data step, as (B* A* W A B + alpha)^-1 has no closed form in general."""

    def __init__(self, left: Any, right: Any) -> None:
        super().__init__()
        into, out = sizes_of(left, "x_shape"), sizes_of(right, "y_shape")
        if not fit(into, out):
            raise ValueError(
                f"A @ B: B must measure {shown(into)}, as the images of A = {formula_or_class(left)} are, got "
                f"{shown(out)} from B = {formula_or_class(right)}; change one of their shapes"
            )
        self.left, self.right = left, right
        self._known = fixed(into, out)
        _take_shape(self, right)

    @property
    def x_shape(self) -> Sizes | None:
        """Sizes of an image, as B's."""
        return resolved(sizes_of(self.right, "x_shape"), self._known)

    @property
    def y_shape(self) -> Sizes | None:
        """Sizes of an image's measurements, as A's."""
        return resolved(sizes_of(self.left, "y_shape"), self._known)

    def A(self, x: Tensor, /) -> Tensor:
        """Return A (B x)."""
        y: Tensor = self.left.A(self.right.A(x))
        return y

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Return B* (A* y)."""
        x: Tensor = self.right.A_adjoint(self.left.A_adjoint(y))
        return x

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Return B* (A* A) (B x), with A's own normal operator."""
        out: Tensor = self.right.A_adjoint(apply_normal(self.left, self.right.A(x)))
        return out

    @property
    def estimate_noise(self) -> Callable[[Tensor], float]:
        """A's estimate, where A has one: the measurements are A's."""
        return self.left.estimate_noise  # type: ignore[no-any-return]

    @property
    def y_is_sampled(self) -> bool | None:  # type: ignore[override]
        """Whether neighbours in y are neighbours on a grid: as A's, or B's where A acts pixel by pixel."""
        left = is_sampled(self.left)
        return is_sampled(self.right) if left is None else left

    @property
    def y_gain(self) -> Tensor:
        """Gains of the measurements: A's where A has them, times B's where A acts pixel by pixel."""
        gain: Tensor = self.left.y_gain
        inner = getattr(self.right, "y_gain", None) if is_sampled(self.left) is None else None
        return gain if inner is None else gain * inner

    @property
    def concerns(self) -> Callable[[Tensor], list[str]]:
        """A's concerns about y, where A has any."""
        return self.left.concerns  # type: ignore[no-any-return]

    @property
    def subset(self) -> Callable[[int, int], LinearOperator]:
        """A's operator of the views b, b + n, ... after B, where A has subsets."""
        subset = self.left.subset
        return lambda b, n: Composed(subset(b, n), self.right)

    def __repr__(self) -> str:
        return f"{_text(self.left, Composed, Scaled)} @ {_text(self.right)}"


class Sum(LinearOperator):
    """A + B, operators on the same images with measurements of the same sizes."""

    def __init__(self, left: Any, right: Any) -> None:
        super().__init__()
        self._known: dict[str, int] = {}
        for kind, what in (("x_shape", "images"), ("y_shape", "measurements")):
            a, b = sizes_of(left, kind), sizes_of(right, kind)
            if not fit(a, b):
                raise ValueError(
                    f"A + B: {what} must have one shape, got {shown(a)} of {formula_or_class(left)} and {shown(b)} of "
                    f"{formula_or_class(right)}; change one of them"
                )
            self._known |= fixed(a, b)
        self.left, self.right = left, right
        _take_shape(self, left, right)

    @property
    def x_shape(self) -> Sizes | None:
        """Sizes of an image."""
        return resolved(sizes_of(self.left, "x_shape") or sizes_of(self.right, "x_shape"), self._known)

    @property
    def y_shape(self) -> Sizes | None:
        """Sizes of an image's measurements."""
        return resolved(sizes_of(self.left, "y_shape") or sizes_of(self.right, "y_shape"), self._known)

    def A(self, x: Tensor, /) -> Tensor:
        """Return A x + B x."""
        y: Tensor = self.left.A(x) + self.right.A(x)
        return y

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Return A* y + B* y."""
        x: Tensor = self.left.A_adjoint(y) + self.right.A_adjoint(y)
        return x

    @property
    def y_is_sampled(self) -> bool | None:  # type: ignore[override]
        """Whether neighbours in y are neighbours on a grid: where both A's and B's are."""
        kinds = (is_sampled(self.left), is_sampled(self.right))
        return False if False in kinds else True if True in kinds else None

    @property
    def subset(self) -> Callable[[int, int], LinearOperator]:
        """The sum over the views b, b + n, ..., where both have subsets."""
        left, right = self.left.subset, self.right.subset
        return lambda b, n: Sum(left(b, n), right(b, n))

    def __repr__(self) -> str:
        left, right = _text(self.left, Composed, Scaled, Sum), _text(self.right, Composed, Scaled)
        return f"{left} - {right[1:]}" if right.startswith("-") else f"{left} + {right}"


class Adjoint(LinearOperator):
    """A*, from measurements to images: its `A` is A's adjoint, its `A_adjoint` is A."""

    y_is_sampled = True

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__()
        self.operator = operator
        sizes = self.x_shape
        if sizes is not None and all(isinstance(n, int) for n in sizes[1:]):
            self.shape = sizes[1:]  # as many axes as the measurements have

    @property
    def x_shape(self) -> Sizes | None:
        """Sizes of A's measurements."""
        return self.operator.y_shape

    @property
    def y_shape(self) -> Sizes | None:
        """Sizes of A's images."""
        return self.operator.x_shape

    @property
    def T(self) -> LinearOperator:
        """A itself."""
        return self.operator

    def A(self, x: Tensor, /) -> Tensor:
        """Return A* x."""
        return self.operator.A_adjoint(x)

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Return A y."""
        return self.operator.A(y)

    def __repr__(self) -> str:
        return f"{_text(self.operator)}.T"


class Stack(LinearOperator):
    """Operators that measure the same image: y = (A_1 x, A_2 x, ...), a tuple of tensors.

    `pnp.solve` takes a tuple or list of measurements, and for each part its own noise.
    """

    def __init__(self, operators: Sequence[Any]) -> None:
        super().__init__()
        self._count, self._shared = len(operators), {}  # type: int, dict[str, int]
        first = next((op for op in operators if sizes_of(op, "x_shape") is not None), operators[0])
        for i, operator in enumerate(operators):
            a, b = sizes_of(first, "x_shape"), sizes_of(operator, "x_shape")
            if not fit(a, b):
                raise ValueError(
                    f"stack: operators must take images of one shape, got {shown(a)} of {formula_or_class(first)} and "
                    f"{shown(b)} of {formula_or_class(operator)}; change one of them"
                )
            self._shared |= fixed(a, b)
            setattr(self, f"operator{i}", operator)
        _take_shape(self, first)

    @property
    def operators(self) -> tuple[Any, ...]:
        """The operators A_1, A_2, ..."""
        return tuple(getattr(self, f"operator{i}") for i in range(self._count))

    @property
    def x_shape(self) -> Sizes | None:
        """Sizes of an image."""
        known = (sizes_of(op, "x_shape") for op in self.operators)
        return resolved(next((sizes for sizes in known if sizes is not None), None), self._shared)

    @property
    def y_shape(self) -> Sizes:
        """Sizes of each part of an image's measurements."""
        return tuple(resolved(sizes_of(op, "y_shape"), self._shared) for op in self.operators)

    def A(self, x: Tensor, /) -> Any:
        """Return the tuple (A_1 x, A_2 x, ...)."""
        return tuple(op.A(x) for op in self.operators)

    def A_adjoint(self, y: Any, /) -> Tensor:
        """Return A_1* y_1 + A_2* y_2 + ... of a tuple or list of measurements."""
        if isinstance(y, Tensor) or not hasattr(y, "__len__") or len(y) != self._count:
            got = f"{len(y)} parts" if isinstance(y, (tuple, list)) else type(y).__name__
            raise ValueError(
                f"stack: y must be a tuple or list of {self._count} tensors, one for each operator, got {got}"
            )
        x: Tensor = sum(op.A_adjoint(part) for op, part in zip(self.operators, y, strict=True))
        return x

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Return A_1* A_1 x + A_2* A_2 x + ..., each by its own normal operator."""
        out: Tensor = sum(apply_normal(op, x) for op in self.operators)  # type: ignore[assignment]
        return out

    def __repr__(self) -> str:
        return f"stack([{', '.join(map(repr, self.operators))}])"


# ---------------------------------------------------------------- the functions behind the signs


def stack(operators: Sequence[Any]) -> LinearOperator:
    """Return the operator of several measurements of one image, y = (A_1 x, A_2 x, ...), a tuple of tensors.

    `pnp.solve(stack([A, B]), (y_A, y_B), denoiser, noise_std=(s_A, s_B))` weighs each part by its own noise.

    Args:
        operators: list or tuple of at least one operator, all on images of one shape, none of them a stack.

    Raises:
        TypeError: operators is not a list or tuple, or an entry has no `A(x)` and `A_adjoint(y)`.
        ValueError: the list is empty, holds a stack, or the operators take images of different shapes.

    >>> import torch
    >>> from operators import Identity
    >>> A = stack([Identity((1, 2)), 2 * Identity((1, 2))])
    >>> A.A(torch.ones(1, 1, 1, 2))
    (tensor([[[[1., 1.]]]]), tensor([[[[2., 2.]]]]))
    """
    if not isinstance(operators, (list, tuple)):
        raise TypeError(f"stack: operators must be a list, e.g. stack([A, B]), got {type(operators).__name__}")
    if not operators or any(isinstance(op, Stack) for op in operators):
        got = "a stack in it" if operators else "an empty one"
        raise ValueError(f"stack: operators must be a list of at least one operator, none a stack, got {got}")
    for op in operators:
        if not is_operator(op):
            raise TypeError(f"stack: operators must have A(x) and A_adjoint(y), got {type(op).__name__}")
    return Stack(operators)


def _compose(left: Any, right: Any) -> LinearOperator:
    left, right = as_operands("@", left, right)
    return Stack([_compose(op, right) for op in left.operators]) if isinstance(left, Stack) else Composed(left, right)


def _scale(c: Any, operator: Any) -> LinearOperator:
    c = as_scale(c)
    if isinstance(operator, Stack):
        return Stack([_scale(c, op) for op in operator.operators])
    if isinstance(operator, Scaled):
        c, operator = c * operator.c, operator.operator
    return operator if c == 1 and isinstance(operator, LinearOperator) else Scaled(c, operator)


def _divide(operator: Any, c: Any) -> LinearOperator:
    return _scale(1 / as_scale(c, "A / c"), operator)


def _add(left: Any, right: Any) -> LinearOperator:
    left, right = as_operands("+", left, right)
    if not isinstance(left, Stack) or not isinstance(right, Stack):
        return Sum(left, right)
    if left._count != right._count:
        raise ValueError(f"A + B: stacks must have as many parts, got {left._count} and {right._count}")
    return Stack([_add(a, b) for a, b in zip(left.operators, right.operators, strict=True)])


def _subtract(left: Any, right: Any) -> LinearOperator:
    left, right = as_operands("-", left, right)
    return _add(left, _scale(-1.0, right))


COMBINATIONS.update({"@": _compose, "*": _scale, "/": _divide, "+": _add, "-": _subtract, "T": Adjoint})


# ---------------------------------------------------------------- helpers


def _take_shape(operator: LinearOperator, *parts: Any) -> None:
    """Set a combination's `shape` to that of its first part that has one; operators of other libraries may not."""
    shape = next((part.shape for part in parts if isinstance(part, LinearOperator) and hasattr(part, "shape")), None)
    if shape is not None:
        operator.shape = shape


def _text(operator: object, *bare: type) -> str:
    """Return an operator's formula, in parentheses where it is a combination that is not of the kinds in `bare`."""
    is_bare = isinstance(operator, bare) or not isinstance(operator, (Composed, Scaled, Sum))
    return repr(operator) if is_bare else f"({operator!r})"
