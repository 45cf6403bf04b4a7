"""A monitor of iterations: history, progress bar, callback and Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from torch import Tensor

from ..checks import short
from .progress import progress_bar, wants_stop
from .result import Stop


class Monitor:
    """Record and show an iteration, and remember why it stopped.

    As a context manager it ends at Ctrl-C with `Stop.INTERRUPTED` instead of raising KeyboardInterrupt, and closes the
    bar. Ctrl-C after `finish` changes nothing any more.

    Args:
        caller: the name of the function that iterates, for messages and the bar.
        max_iter: iterations at most.
        names: what the history holds, in this order.
        callback: called by `asks_to_stop`; a true answer stops.
        progress: show a bar on stderr.

    Attributes:
        history: a list for each name, with one value per iteration: a number, or a list with one for each image.
        stop: why the iteration ended; MAX_ITER unless something else was set.

    >>> with Monitor("halve", 5, ("x",)) as monitor:
    ...     for x in (1.0, 0.5, 0.25):
    ...         monitor.record(x)
    >>> monitor.history, monitor.stop.name
    ({'x': [1.0, 0.5, 0.25]}, 'MAX_ITER')
    """

    def __init__(
        self,
        caller: str,
        max_iter: int,
        names: Iterable[str],
        *,
        callback: Callable[..., Any] | None = None,
        progress: bool = False,
    ) -> None:
        if callback is not None and not callable(callback):
            got = short(type(callback).__name__, 60)
            raise TypeError(f"{caller}: callback must be a function that is called after each iteration, got {got}")
        self.caller, self.max_iter, self.callback = caller, max_iter, callback
        self.history: dict[str, list[Any]] = {name: [] for name in names}
        self.stop = Stop.MAX_ITER
        self._finished, self._n_resumed = False, 0
        self._progress = progress
        self._bar: Any = None

    @property
    def n_iter(self) -> int:
        """Recorded iterations."""
        return len(next(iter(self.history.values())))

    def resume(self, history: dict[str, list[Any]]) -> None:
        """Take over the history of a checkpoint.

        Raises:
            ValueError: it has more iterations than max_iter.
        """
        for name, values in self.history.items():
            values[:] = history[name]
        if self.n_iter > self.max_iter:
            raise ValueError(f"{self.caller}: max_iter must be at least the {self.n_iter} iterations of checkpoint")
        self._n_resumed = self.n_iter

    def restart(self) -> dict[str, list[Any]]:
        """Return the history so far and begin another, of a solve without the outliers that this one found."""
        history = {name: list(values) for name, values in self.history.items()}
        for values in self.history.values():
            values.clear()
        self.stop, self._finished, self._n_resumed = Stop.MAX_ITER, False, 0
        return history

    def record(self, *values: float | Tensor) -> None:
        """Append a value for each name of the history."""
        for column, value in zip(self.history.values(), values, strict=True):
            column.append(as_numbers(value))

    def show(self, text: str = "") -> None:
        """Advance the bar, which shows `text`: last, so that an iteration that was shown is also kept."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()

    def asks_to_stop(self, *state: Any) -> bool:
        """Call the callback with the state, and return whether it asked to stop."""
        if self.callback is None or not wants_stop(self.callback(*state)):
            return False
        self.stop = Stop.CALLBACK
        return True

    def finish(self) -> None:
        """Mark the iteration as ended: Ctrl-C from here on does not change why it stopped."""
        self._finished = True

    def __enter__(self) -> Monitor:
        if self._progress:
            self._bar = progress_bar(self.caller, self.max_iter)
            self._bar.update(self._n_resumed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if self._bar is not None:
            self._bar.close()
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            return False
        if not self._finished:
            self.stop = Stop.INTERRUPTED
        return True


def as_numbers(value: float | Tensor) -> float | list[float]:
    """Return a number as it is, a tensor (B,) as a list."""
    return value.tolist() if isinstance(value, Tensor) else value  # type: ignore[no-any-return]


def as_text(value: float | Tensor) -> str:
    """Return a number with three digits, of a tensor (B,) the least and the largest.

    >>> as_text(0.12345)
    '0.123'
    """
    if isinstance(value, Tensor) and value.ndim:
        return f"{float(value.min()):.3g} to {float(value.max()):.3g}"
    return f"{float(value):.3g}"
