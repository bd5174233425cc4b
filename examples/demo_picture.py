# SPDX-License-Identifier: Apache-2.0
"""The picture of the demo: the loss of both runs, where one was killed, and where it went on.

Knows losses by step and three marks. Knows nothing of checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Losses = Mapping[int, float]

INK = "#22262e"
QUIET = "#7b8494"
CALM = "#c3cad6"
BEFORE = "#e07a1f"
AFTER = "#1f6fb4"


@dataclass(frozen=True)
class Story:
    """What the picture shows. `saves` are the steps whose checkpoints became visible."""

    undisturbed: Losses
    killed: Losses
    resumed: Losses
    saves: tuple[int, ...]
    draft_step: int
    resumed_from: int
    leaves: int
    differing: int

    @property
    def killed_after(self) -> int:
        return max(self.killed)

    @property
    def verdict(self) -> str:
        if self.differing:
            return "the final states differ"
        return "not one bit lost"


def draw(story: Story, file: Path) -> None:
    """Write the picture to `file`."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 10, "font.family": "sans-serif", "text.color": INK}):
        figure, (whole, close) = plt.subplots(
            2, 1, figsize=(9.6, 6.8), dpi=150, height_ratios=(1.5, 1), layout="constrained"
        )
        figure.get_layout_engine().set(hspace=0.08, h_pad=0.12, w_pad=0.12)
        figure.suptitle(
            f"Killed in the middle of a save, resumed, and {story.verdict}",
            x=0.012,
            ha="left",
            fontsize=15,
            fontweight="bold",
        )
        _draw_whole(whole, story)
        _draw_close(close, story)
        figure.savefig(file, facecolor="white")
        plt.close(figure)


def _draw_whole(axes: Any, story: Story) -> None:
    last = max(story.undisturbed)
    _curves(axes, story, 1, last)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0, last * 1.01)
    _dress(axes, "training loss on scikit-learn's digits, batch by batch")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 1.6)
    axes.axvline(story.killed_after, color=BEFORE, lw=1, ls=(0, (2, 2)))
    axes.annotate(
        f"SIGKILL after step {story.killed_after},\ncheckpoint {story.draft_step} half written",
        (story.killed_after, high * 1.25),
        xytext=(8, 0),
        textcoords="offset points",
        color=BEFORE,
        va="top",
        fontsize=9.5,
    )
    axes.annotate(
        "",
        (story.resumed_from, high * 0.5),
        xytext=(story.killed_after, high * 0.5),
        arrowprops={"arrowstyle": "-|>", "color": AFTER, "lw": 1.4, "shrinkA": 0, "shrinkB": 0},
    )
    axes.annotate(
        f"started again from checkpoint {story.resumed_from}",
        (story.resumed_from, high * 0.5),
        xytext=(-6, 0),
        textcoords="offset points",
        color=AFTER,
        ha="right",
        va="center",
        fontsize=9.5,
    )
    axes.plot(
        story.saves,
        [low * 1.12] * len(story.saves),
        "^",
        color=QUIET,
        ms=5,
        ls="",
        label="a checkpoint became visible",
        clip_on=False,
    )
    axes.legend(loc="upper right", frameon=False, fontsize=9.5)


def _draw_close(axes: Any, story: Story) -> None:
    reach = max(8, story.killed_after - story.resumed_from)
    first = max(1, story.resumed_from - reach)
    last = min(max(story.undisturbed), story.killed_after + reach)
    _curves(axes, story, first, last, marks=True)
    axes.set_xlim(first - 0.5, last + 0.5)
    _dress(axes, "the same, close up")
    axes.set_xlabel("step", color=QUIET)
    low, high = axes.get_ylim()
    axes.set_ylim(low - (high - low) * 0.08, high + (high - low) * 0.42)
    top = axes.get_ylim()[1]
    axes.axvspan(story.resumed_from + 0.5, story.killed_after + 0.5, color=BEFORE, alpha=0.09, lw=0)
    axes.axvline(story.killed_after + 0.5, color=BEFORE, lw=1, ls=(0, (2, 2)))
    axes.axvline(story.resumed_from + 0.5, color=AFTER, lw=1, ls=(0, (2, 2)))
    note = {"textcoords": "offset points", "va": "top", "fontsize": 9.5}
    axes.annotate(
        f"resumed from\ncheckpoint {story.resumed_from}",
        (story.resumed_from + 0.5, top),
        xytext=(-7, -6),
        ha="right",
        color=AFTER,
        **note,
    )
    again = story.killed_after - story.resumed_from
    axes.annotate(
        f"{again} {'step' if again == 1 else 'steps'}\ndone twice",
        ((story.resumed_from + story.killed_after + 1) / 2, top),
        xytext=(0, -6),
        ha="center",
        color=INK,
        **note,
    )
    axes.annotate(
        f"killed; in the end {story.leaves - story.differing} of {story.leaves}\n"
        "leaves are equal, bit for bit",
        (story.killed_after + 0.5, top),
        xytext=(7, -6),
        ha="left",
        color=BEFORE,
        **note,
    )


def _curves(axes: Any, story: Story, first: int, last: int, *, marks: bool = False) -> None:
    size = 4.5 if marks else 0
    parts = (
        (story.undisturbed, CALM, 6.0, "never disturbed", None),
        (story.killed, BEFORE, 1.6, "until it was killed", "o"),
        (story.resumed, AFTER, 1.6, "started again", "o"),
    )
    for losses, colour, width, label, marker in parts:
        steps = [step for step in sorted(losses) if first <= step <= last]
        hollow = {"markerfacecolor": "white"} if losses is story.resumed else {}
        shown = marker if marks else None
        axes.plot(
            steps,
            [losses[step] for step in steps],
            color=colour,
            lw=width,
            label=label,
            marker=shown,
            ms=size if losses is story.resumed else size * 1.6,
            solid_capstyle="round",
            **hollow,
        )


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(CALM)
    axes.tick_params(colors=QUIET, which="both", length=3)
    axes.grid(axis="y", color="#eceff4", lw=0.8, which="major")
    axes.set_axisbelow(True)
