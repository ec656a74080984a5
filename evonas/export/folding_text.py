"""The text of ``fold`` in ``layer.py``, for layers that are affine per channel at evaluation: what
``evonas.layers.fold_layer`` does, with torch alone."""

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
            The tensors of an nn.Conv1d are (batch, channels, tokens), and the caller transposes for the layer.
        position: "after" if the layer takes the map's output, "before" if the map takes the layer's.
    """
    if type(linear) not in (nn.Linear, nn.Conv1d, nn.Conv2d) or position not in ("after", "before"):
        raise ValueError(
            f"{type(linear).__name__}, {position!r}: need Linear, Conv1d, Conv2d, and after or before"
        )
    layout = "nchw" if isinstance(linear, nn.Conv2d) else "btc"
    if layer.layout != layout:
        raise ValueError(f"{type(linear).__name__} goes with layout {layout}, the layer is {layer.layout}")
    after, weight = position == "after", linear.weight.double()
    groups = getattr(linear, "groups", 1)
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    if layer.num_features != (outputs if after else inputs):
        raise ValueError(
            f"a layer of {layer.num_features} channels {position} a map from {inputs} to {outputs}"
        )
    twin, rest = copy.deepcopy(layer).double().eval(), None
    if layer.apply_act:
        scale, shift = twin.eval_affine()
        rest = layer.eval_rest() if hasattr(layer, "eval_rest") else None
    else:
        one = weight.new_ones(layer.num_features)
        scale = one if twin.weight is None else twin.weight
        shift = 0 * one if twin.bias is None else twin.bias
    if not bool(torch.isfinite(scale).all() and torch.isfinite(shift).all()):
        raise ValueError("the scale or the shift of the layer in evaluation is not finite")
    ones = [1] * (weight.dim() - 1)
    if after:
        if rest is not None:
            raise ValueError(f"{rest} stands between the map and what could be folded into it")
        weight, factor, added = weight * scale.view(-1, *ones), scale, shift
    else:
        if rest is not None and isinstance(linear, nn.Conv1d):
            raise ValueError(f"{rest} stays, and its channels are last, those of a Conv1d second")
        if bool((shift != 0).any()) and _pads_with_zeros(linear):
            raise ValueError(
                "the convolution pads with zeros, which are not what the layer makes of the border"
            )
        # one value per input of each output: a group of a convolution sees its own channels alone
        rows = [v.view(groups, -1).repeat_interleave(outputs // groups, 0) for v in (scale, shift)]
        scale, shift = (row.view(outputs, -1, *ones[1:]) for row in rows)
        weight, factor, added = weight * scale, 1, (weight * shift).flatten(1).sum(1)
    made = copy.deepcopy(linear)
    made.weight.copy_(weight)
    if made.bias is not None:
        made.bias.copy_(factor * linear.bias.double() + added)
    elif bool((added != 0).any()):
        made.bias = nn.Parameter(added.to(made.weight.dtype), requires_grad=made.weight.requires_grad)
    return made if rest is None else nn.Sequential(rest, made)


def _pads_with_zeros(linear: nn.Module) -> bool:
    if isinstance(linear, nn.Linear) or linear.padding_mode != "zeros":
        return False
    if isinstance(linear.padding, str):
        return linear.padding == "same" and any(k > 1 for k in linear.kernel_size)
    return any(linear.padding)
'''

#: A method of a layer that is given as a graph; SHAPE is that of a tensor with one value per channel.
EVAL_AFFINE = '''
@torch.no_grad()
def eval_affine(self) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel of a layer in evaluation mode: read off at 0 and 1, in float64."""
    device = next((t.device for t in (*self.parameters(), *self.buffers())), None)
    zero = torch.zeros(SHAPE, dtype=torch.float64, device=device)
    at_zero, at_one = (self._affine(self._formula(x)).reshape(-1) for x in (zero, zero + 1))
    return at_one - at_zero, at_zero
'''
