"""The text of ``fold`` in ``layer.py``, for layers that are affine per channel at evaluation."""

from __future__ import annotations

FOLD = '''
@torch.no_grad()
def fold(layer: nn.Module, linear: nn.Module, position: str = "after") -> nn.Module:
    """A new map that computes what ``linear`` and ``layer`` compute one after the other in evaluation.

    There the layer is a scale and a shift per channel, which go into weight and bias: after a map,
    scale (W x + b) + shift; before one, W (scale x + shift) + b. Computed in float64, rounded once; both modules
    stay as they are.

    Args:
        linear: nn.Linear or nn.Conv1d for a layer on tokens, nn.Conv2d for one on images; any groups and strides.
        position: "after" if the layer takes the map's output, "before" if the map takes the layer's.
    """
    if type(linear) not in (nn.Linear, nn.Conv1d, nn.Conv2d) or position not in ("after", "before"):
        raise ValueError(f"{type(linear).__name__}, {position!r}: need Linear, Conv1d, Conv2d, and after or before")
    after, weight = position == "after", linear.weight.double()
    groups = getattr(linear, "groups", 1)
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    if layer.num_features != (outputs if after else inputs):
        raise ValueError(f"a layer of {layer.num_features} channels {position} a map from {inputs} to {outputs}")
    bias = weight.new_zeros(outputs) if linear.bias is None else linear.bias.double()
    scale, shift = (value.double() for value in copy.deepcopy(layer).double().eval_affine())
    rest = layer.eval_rest() if hasattr(layer, "eval_rest") else None
    ones = [1] * (weight.dim() - 1)
    if after:
        if rest is not None:
            raise ValueError(f"{rest} stands between the map and what could be folded into it")
        weight, bias = weight * scale.view(-1, *ones), scale * bias + shift
    else:
        padding = getattr(linear, "padding", 0)
        padded = padding == "same" if isinstance(padding, str) else padding != 0 and any(padding)
        if padded and linear.padding_mode == "zeros" and bool((shift != 0).any()):
            raise ValueError("the convolution pads with zeros, which are not what the layer makes of the border")
        # one value per input of each output: a group of a convolution sees its own channels alone
        rows = [v.view(groups, -1).repeat_interleave(outputs // groups, 0) for v in (scale, shift)]
        scale, shift = (row.view(outputs, -1, *ones[1:]) for row in rows)
        weight, bias = weight * scale, bias + (weight * shift).flatten(1).sum(1)
    made = copy.deepcopy(linear)
    made.weight.copy_(weight)
    if made.bias is not None or bool((bias != 0).any()):
        made.bias = nn.Parameter(bias.to(linear.weight.dtype))
    return made if rest is None else nn.Sequential(rest, made)
'''

#: A method of a layer that is given as a graph; ZERO is a tensor of zeros with one value per channel.
EVAL_AFFINE = '''
@torch.no_grad()
def eval_affine(self) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel, of the layer in evaluation: read off at 0 and 1, in float64."""
    twin = copy.deepcopy(self).double().eval()
    device = next((t.device for t in (*self.parameters(), *self.buffers())), None)
    zero = torch.zeros(SHAPE, dtype=torch.float64, device=device)
    at_zero, at_one = (
        twin._affine(twin._formula(x) if self.apply_act else x).reshape(-1) for x in (zero, zero + 1)
    )
    return at_one - at_zero, at_zero
'''
