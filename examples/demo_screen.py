# SPDX-License-Identifier: Apache-2.0
"""How the demo speaks: with a progress bar and colours on a terminal, in plain lines elsewhere.

Knows chapters, facts and progress. Knows nothing of what is told.
"""

import sys
from types import TracebackType
from typing import Protocol, Self


class Screen(Protocol):
    """Whoever listens."""

    def chapter(self, number: int, title: str) -> None: ...

    def progress(self, step: int, steps: int, loss: float | None) -> None: ...

    def say(self, *lines: str) -> None: ...

    def show(self, text: str) -> None: ...

    def end(self, line: str, *, good: bool) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def screen_for_stdout() -> Screen:
    """A screen with a bar if there is a terminal, and rich to draw on it."""
    if sys.stdout.isatty():
        try:
            return RichScreen()
        except ImportError:
            pass
    return PlainScreen()


class PlainScreen:
    """Lines of text; of the progress one line for each quarter."""

    def __init__(self) -> None:
        self._quarter = 0

    def chapter(self, number: int, title: str) -> None:
        self._quarter = 0
        print(f"\n{number}. {title}", flush=True)

    def progress(self, step: int, steps: int, loss: float | None) -> None:
        quarter = 4 * step // steps
        if loss is not None and quarter > self._quarter:
            self._quarter = quarter
            print(f"   step {step} of {steps}, loss {loss:.3f}", flush=True)

    def say(self, *lines: str) -> None:
        for line in lines:
            print(f"   {line}", flush=True)

    def show(self, text: str) -> None:
        for line in text.splitlines():
            print(f"     {line}", flush=True)

    def end(self, line: str, *, good: bool) -> None:
        print(f"\n{line}", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class RichScreen:
    """The same with a bar that moves, drawn by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(highlight=False)
        columns = (
            TextColumn("  "),
            BarColumn(bar_width=40, complete_style="cyan", finished_style="cyan"),
            TextColumn("step {task.completed:.0f} of {task.total:.0f}"),
            TextColumn("{task.fields[loss]}", style="dim"),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=self._console)
        self._task = None

    def chapter(self, number: int, title: str) -> None:
        self._retire_bar()
        self._console.print(f"\n[bold]{number}. {title}[/]")

    def progress(self, step: int, steps: int, loss: float | None) -> None:
        if self._task is None:
            self._task = self._bars.add_task("", total=steps, loss="")
            self._bars.start()
        self._bars.update(
            self._task, completed=step, loss="" if loss is None else f"loss {loss:.3f}"
        )

    def say(self, *lines: str) -> None:
        self._retire_bar()
        for line in lines:
            self._console.print(f"   {line}", markup=False, soft_wrap=True)

    def show(self, text: str) -> None:
        self._retire_bar()
        for line in text.splitlines():
            self._console.print(f"     {line}", style="dim", markup=False, soft_wrap=True)

    def end(self, line: str, *, good: bool) -> None:
        self._retire_bar()
        style = "bold green" if good else "bold red"
        self._console.print(f"\n{line}", style=style, markup=False, soft_wrap=True)

    def _retire_bar(self) -> None:
        """Leave the bar where it stands; the next chapter draws its own."""
        if self._task is not None:
            self._bars.stop()
            self._bars.remove_task(self._task)
            self._task = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._retire_bar()
