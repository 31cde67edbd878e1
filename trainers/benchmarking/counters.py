"""What a generator asked of the model, seen from the model's side, so that every generator is counted alike.

Hooks sit on the transformer's body, on its vocabulary head and inside its last feed-forward module: however a
generator calls the model (whole, or body and head apart; with stored keys and values or without), it passes there.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Pass:
    """One run through the body: rows, positions fed in each, and positions that these may attend to."""

    rows: int
    fed: int
    attended: int

    @property
    def positions(self) -> int:
        """Positions fed in all rows."""
        return self.rows * self.fed


@dataclass
class Calls:
    """Everything the model was asked while it was watched.

    Attributes:
        body: how often a pass of each kind was made.
        head: how often the head was given each number of rows (hidden states).
        last_feed_forward: how often the last layer's was given each number: all positions, or those to be predicted.
    """

    body: Counter[Pass] = field(default_factory=Counter)
    head: Counter[int] = field(default_factory=Counter)
    last_feed_forward: Counter[int] = field(default_factory=Counter)

    @property
    def forwards(self) -> int:
        """Runs of the model."""
        return self.body.total()

    @property
    def row_forwards(self) -> int:
        """Sequences fed, summed over the runs."""
        return sum(times * each.rows for each, times in self.body.items())

    @property
    def positions(self) -> int:
        """Positions fed, summed over sequences and runs."""
        return sum(times * each.positions for each, times in self.body.items())

    @property
    def head_rows(self) -> int:
        """Hidden states projected onto the vocabulary."""
        return sum(times * rows for rows, times in self.head.items())


@contextmanager
def watch(model: PreTrainedModel) -> Iterator[Calls]:
    """Count what ``model`` is asked inside the ``with``."""
    calls = Calls()
    head_module = model.get_output_embeddings()
    assert head_module is not None
    decoder: Any = model.get_decoder()  # its layers have no type: the names of their parts are Llama's

    def body(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        fed = args[0] if args else kwargs.get("input_ids")
        fed = kwargs["inputs_embeds"] if fed is None else fed
        memory = kwargs.get("past_key_values")
        stored = memory.get_seq_length() if memory is not None else 0
        calls.body[Pass(fed.size(0), fed.size(1), stored + fed.size(1))] += 1

    def head(_: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls.head[output.numel() // output.size(-1)] += 1  # after other hooks have picked rows

    def inside(_: Any, args: tuple[Tensor, ...]) -> None:
        calls.last_feed_forward[args[0].numel() // args[0].size(-1)] += 1

    handles = [
        model.base_model.register_forward_pre_hook(body, with_kwargs=True),
        head_module.register_forward_hook(head),
        decoder.layers[-1].mlp.down_proj.register_forward_pre_hook(inside),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
