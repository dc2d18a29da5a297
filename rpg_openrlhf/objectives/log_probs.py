"""Log-probs and entropy of a model's output layer without its logits: tiles of the vocabulary, one after the other.

Shapes: N tokens, H hidden size, V vocabulary. A tile is the logits of all N tokens for some columns of V. It is
computed, folded into running sums and dropped; the backward pass computes it again. Because a tile has every token, a
row of the weight's gradient is one matrix product, without rounding in between. Only the gradient of the hidden states
is summed over tiles, in float32. Apart from the gradients, memory is O(tile) for any N and V.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch.autograd.function import once_differentiable

# Elements of a tile: on a CPU it stays in the cache between element-wise steps, on a GPU it fills the matrix units.
TILE_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
FEWEST_COLUMNS = 256  # with fewer, matrix products are slow for any number of tokens
FLOOR = -200.0  # log-probabilities are cut off here, where exp() is 0 in float32, so that 0 · log 0 is 0 and not NaN


def linear_log_probs_and_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
    bias: torch.Tensor | None = None,
    *,
    with_entropy: bool = True,
    tile_elements: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of each label and entropy of each token's distribution, both with gradients.

        z = (hidden weightᵀ + bias) / temperature       p = softmax(z)
        log_prob = z_label - log Σ exp z                ∂log_prob/∂z = onehot(label) - p
        entropy = -Σ p log p                            ∂entropy/∂z = -p (log p + entropy)

    hidden (N, H), weight (V, H), labels (N,) in [0, V), bias (V,) -> (N,) and (N,), in float32 or the inputs' wider
    type; without `with_entropy` the second is None. z is rounded to the inputs' type as a linear layer rounds it. A
    label outside the vocabulary gives NaN. `tile_elements` bounds a tile, N x columns; it affects only speed.
    """
    assert labels.shape == hidden.shape[:-1] == hidden.shape[:1], (hidden.shape, labels.shape)
    size = tile_elements or TILE_ELEMENTS.get(hidden.device.type, TILE_ELEMENTS["cpu"])
    log_probs, entropy = _LinearLogProbs.apply(hidden, weight, bias, labels, temperature, with_entropy, size)  # pyright: ignore[reportGeneralTypeIssues]
    return log_probs, entropy


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, temperature, with_entropy, tile_elements):
        tiles = _Tiles(hidden, weight, bias, tile_elements)
        fold, each = _for_device(_fold, hidden), torch.arange(len(labels), device=labels.device)
        peak = hidden.new_full(labels.shape, torch.finfo(tiles.exact).min, dtype=tiles.exact)  # -inf - -inf is NaN
        total, weighted = torch.zeros_like(peak), torch.zeros_like(peak) if with_entropy else None
        chosen = torch.full_like(peak, torch.nan)
        for start, rows in tiles:
            logits, wide, spare = tiles.make(start, rows)
            place, inside = _place(labels, start, len(rows))
            chosen = torch.where(inside, logits[each, place].to(tiles.exact).div_(temperature), chosen)
            peak, total, weighted = fold(logits, wide, spare, temperature, peak, total, weighted)
        log_probs = (chosen - peak).sub_(total.log())  # this order cancels an offset common to all logits first
        entropy = total.log().sub_(weighted / total) if weighted is not None else None
        ctx.set_materialize_grads(False)  # an entropy that is only logged costs the backward pass nothing
        ctx.save_for_backward(hidden, weight, bias, labels, peak, total, log_probs, entropy)
        ctx.temperature, ctx.tile_elements = temperature, tile_elements
        return log_probs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_probs, grad_entropy):  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, labels, peak, total, log_probs, entropy = ctx.saved_tensors
        if grad_log_probs is None and grad_entropy is None:
            return (None,) * 7
        tiles = _Tiles(hidden, weight, bias, ctx.tile_elements)
        differentiate, each = _for_device(_differentiate, hidden), torch.arange(len(labels), device=labels.device)
        at_label, base, slope = _row_factors(total, log_probs, entropy, grad_log_probs, grad_entropy, ctx.temperature)
        wanted = zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        d_hidden, d_weight, d_bias = (torch.empty_like(tensor) if wants else None for tensor, wants in wanted)
        d_hidden = torch.zeros_like(hidden, dtype=tiles.exact) if d_hidden is not None else None
        for start, rows in tiles:
            logits, wide, spare = tiles.make(start, rows)
            differentiate(logits, wide, spare, ctx.temperature, peak, base, slope)
            place, inside = _place(labels, start, len(rows))
            logits[each, place] = torch.where(inside, at_label.to(logits.dtype), logits[each, place])
            if d_weight is not None:
                torch.mm(logits.t(), hidden, out=d_weight[start : start + len(rows)])
            if d_bias is not None:
                torch.sum(logits, 0, out=d_bias[start : start + len(rows)])
            if d_hidden is not None and d_hidden.dtype == rows.dtype:
                d_hidden.addmm_(logits, rows)
            elif d_hidden is not None:
                d_hidden.add_(torch.mm(logits, rows))
        return d_hidden.to(hidden.dtype) if d_hidden is not None else None, d_weight, d_bias, *(None,) * 4


class _Tiles:
    """Iterable of tiles: start and weight rows of each; `make` computes one in memory that all share."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, elements: int):
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.exact = torch.promote_types(hidden.dtype, torch.float32)
        self.columns = min(max(elements // max(len(hidden), 1) // 64 * 64, min(FEWEST_COLUMNS, elements)), len(weight))
        size = len(hidden) * self.columns
        self.logits, self.wide, self.spare = hidden.new_empty(size), None, None
        if not hidden.is_cuda:
            # A CPU's allocator would release memory of this size and map it again for every tile. Code compiled for
            # CUDA has no such intermediate results.
            self.spare = hidden.new_empty(size, dtype=self.exact)
            self.wide = torch.empty_like(self.spare) if self.exact != hidden.dtype else None

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, len(self.weight), self.columns):
            yield start, self.weight[start : start + self.columns]

    def make(self, start: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Compute a tile as the linear layer would, and return it with two work buffers or None; all (N, columns)."""
        shape = len(self.hidden), len(rows)
        logits, wide, spare = (
            memory[: shape[0] * shape[1]].view(shape) if memory is not None else None
            for memory in (self.logits, self.wide, self.spare)
        )
        assert logits is not None
        if self.bias is None:
            torch.mm(self.hidden, rows.t(), out=logits)
        else:
            torch.addmm(self.bias[start : start + len(rows)], self.hidden, rows.t(), out=logits)
        return logits, wide, spare


def _place(labels: torch.Tensor, start: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Column of each token's label in a tile, and a mask of labels that are in the tile: both (N,)."""
    place = labels - start
    return place.clamp(0, columns - 1), (place >= 0) & (place < columns)


def _scaled(logits: torch.Tensor, wide: torch.Tensor | None, exact: torch.dtype, temperature: float) -> torch.Tensor:
    """z of a tile in the wider type; may overwrite `logits`."""
    z = logits.to(exact) if wide is None else wide.copy_(logits)
    return z if temperature == 1 else z.div_(temperature)


def _fold(
    logits: torch.Tensor,
    wide: torch.Tensor | None,
    spare: torch.Tensor | None,
    temperature: float,
    peak: torch.Tensor,
    total: torch.Tensor,
    weighted: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Fold a tile into each token's running max z, Σ exp(z - max), Σ exp(z - max) (z - max). Overwrites `logits`."""
    z = _scaled(logits, wide, peak.dtype, temperature)
    new_peak = torch.maximum(peak, z.amax(1))
    shift = (peak - new_peak).clamp_(min=FLOOR)
    rescale = shift.exp()
    z.sub_(new_peak.unsqueeze(1))
    if weighted is None:
        return new_peak, rescale * total + z.exp_().sum(1), None
    weights = torch.exp(z.clamp_(min=FLOOR), out=spare)
    weighted = rescale * (weighted + total * shift) + z.mul_(weights).sum(1)
    return new_peak, rescale * total + weights.sum(1), weighted


def _row_factors(
    total: torch.Tensor,
    log_probs: torch.Tensor,
    entropy: torch.Tensor | None,
    grad_log_probs: torch.Tensor | None,
    grad_entropy: torch.Tensor | None,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Parts of a token's row of ∂loss/∂logits: its value at the label, and eˣ·(base + slope·x) elsewhere.

    x = z - max, so that p = eˣ/total and log p = x - log total, without the rounding of a large max. At the label
    1 - p is computed from the log-prob: after rounding to bfloat16 the difference would be noise.
    """
    log_prob = log_probs.clamp(min=FLOOR)
    at_label = base = torch.zeros_like(log_probs)
    if grad_log_probs is not None:
        at_label = -grad_log_probs * log_prob.expm1() / temperature
        base = -grad_log_probs / temperature
    if grad_entropy is None or entropy is None:
        return at_label, base / total, None
    slope = -grad_entropy / temperature
    at_label = at_label + slope * log_prob.exp() * (log_prob + entropy)
    return at_label, (base + slope * (entropy - total.log())) / total, slope / total


def _differentiate(
    logits: torch.Tensor,
    wide: torch.Tensor | None,
    spare: torch.Tensor | None,
    temperature: float,
    peak: torch.Tensor,
    base: torch.Tensor,
    slope: torch.Tensor | None,
) -> None:
    """Replace a tile's logits by eˣ·(base + slope·x)."""
    x = _scaled(logits, wide, peak.dtype, temperature).sub_(peak.unsqueeze(1))
    if slope is None:
        x.exp_().mul_(base.unsqueeze(1))
    else:
        exp = torch.exp(x.clamp_(min=FLOOR), out=spare)
        x.mul_(slope.unsqueeze(1)).add_(base.unsqueeze(1)).mul_(exp)
    if x is not logits:
        logits.copy_(x)


@functools.cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)


def _for_device(function: Callable, tensor: torch.Tensor) -> Callable:
    """Compile element-wise steps to one kernel on CUDA: eager ones would read and write a tile some ten times."""
    return _compiled(function) if tensor.is_cuda else function
