"""One weight of an original that is several of transformers'."""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import Concatenate, ConversionOps


class SplitRows(ConversionOps):
    """Cuts a weight's rows into one part for each target, as long as that target's parameter is.

    transformers has such an operation (`Split`) in its later 5.x alone; `Chunk`, which all have, makes equal parts,
    and queries have more rows than keys.
    """

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The parts by target, as transformers' loader asks for them.

        Args:
            input_dict: the one weight, (rows, columns), by its pattern; alone in a list or not.
            source_patterns: of the original's name.
            target_patterns: of the parts' names, from the top.
            full_layer_name: of the first part, in the model.
            model: that is loaded.
            kwargs: what else the loader tells; not used.
        """
        assert model is not None and len(input_dict) == 1
        (weight,) = input_dict.values()
        whole = weight[0] if isinstance(weight, list) else weight
        names = [full_layer_name.replace(target_patterns[0], target) for target in target_patterns]
        parts = torch.split(whole, [len(model.get_parameter(name)) for name in names])
        return {target: part.contiguous() for target, part in zip(target_patterns, parts, strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        """What makes one of the parts again, when a model is saved under its original's names."""
        return Concatenate(0)
