"""Steps by which the ways to compute are tried and compared before they are used."""

from __future__ import annotations

from torch import Tensor

from llama_hub.inference.batch import Batch, Piece, build
from llama_hub.inference.config import PAGE

TOLERANCE = 0.1  # of the spread of a row's logits, between two ways to compute it
PROMPT_LENGTHS = (12, 24, 48, 100)  # that are compiled for: kernels change form between them


def agree(found: Tensor, expected: Tensor, what: str) -> None:
    """``RuntimeError`` unless every row of ``found`` is ``expected`` but for rounding.

    By the root mean square of a row, not its largest entry: of 32000 logits in bfloat16 one always
    lies far off, while a row that belongs to another sequence differs by more than the row itself.
    """
    if found.shape != expected.shape:
        raise RuntimeError(f"{what} has logits of shape {list(found.shape)}")
    difference = (found - expected).square().mean(-1).sqrt()
    worst = float((difference / expected.std(-1)).max())
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the logits of {what} differ by {worst:.3g} of their spread")


def prompts(room: int) -> list[Batch]:
    """One prompt of each length for which kernels have a form, of at most ``room`` tokens."""
    pages = tuple(range(-(-room // PAGE)))
    lengths = sorted({min(length, room) for length in PROMPT_LENGTHS})
    return [build([Piece((1,) * n, 0, pages, wanted=n, prompt=n)]) for n in lengths]


def mixed(pages: int) -> Batch:
    """Prompts from their beginning and from their middle, and single rows; on few of ``pages``."""
    pieces = [
        Piece(tuple(range(5, 12)), 0, (0,), prompt=7),
        Piece((9,), 0, (pages - 1,), prompt=1),
        Piece((3, 4, 5), 7, (0,), wanted=2, prompt=3),
        Piece((11,), 10, (0,)),
    ]
    return build(pieces if pages > 1 else pieces[:1])


def begun(count: int, vocabulary: int) -> list[Piece]:
    """Short prompts, each on a page of its own, all different."""
    words = min(1000, vocabulary - 1)
    lengths = [1 + row * 5 % (PAGE - 2) for row in range(count)]
    return [
        Piece(tuple((row * 31 + n * 7) % words for n in range(length)), 0, (row,), 1, length)
        for row, length in enumerate(lengths)
    ]


def following(pieces: list[Piece]) -> list[Piece]:
    """One token more of each: every second one counts as the user's, which changes their order."""
    return [
        Piece((7 + row,), len(piece.tokens), piece.pages, prompt=row % 2)
        for row, piece in enumerate(pieces)
    ]


def shuffled(count: int) -> list[int]:
    """Another order of ``count`` things, without a random number."""
    if count % 7:
        return [(index * 7 + 3) % count for index in range(count)]
    return list(range(count))[::-1]


class Rehearsal:
    """Stands in for the other processes while one compiles alone."""

    def __init__(self, size: int) -> None:
        self.size = size

    def sum(self, partial: Tensor) -> Tensor:
        return partial

    def gather(self, part: Tensor) -> Tensor:
        return part

    def least(self, number: int) -> int:
        return number
