"""flash_attn's padding helpers in plain torch, for machines without its kernels.

Same names, arguments and results as flash_attn.bert_padding and flash_attn.utils.distributed (2.8.3), as far as
openrlhf/models/ring_attn_utils.py calls them. B: sequences, T: tokens a sequence, N: tokens that are no padding.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange

__all__ = ["all_gather", "index_first_axis", "pad_input", "rearrange", "unpad_input"]


def index_first_axis(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows `indices` (N,) of `tensor` (B*T, ...): (N, ...)."""
    return tensor[indices]


def unpad_input(hidden: torch.Tensor, attention_mask: torch.Tensor):
    """(B, T, ...) without padding: tokens (N, ...), their places (N,), cumulative lengths (B+1,), longest, lengths."""
    lengths = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = attention_mask.flatten().nonzero().flatten()
    cu_seqlens = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return hidden.flatten(0, 1)[indices], indices, cu_seqlens, int(lengths.max()), lengths


def pad_input(hidden: torch.Tensor, indices: torch.Tensor, batch: int, seqlen: int) -> torch.Tensor:
    """The inverse of unpad_input: (N, ...) to (B, T, ...), zeros where padding was."""
    output = hidden.new_zeros(batch * seqlen, *hidden.shape[1:])
    return output.index_copy(0, indices, hidden).unflatten(0, (batch, seqlen))


def all_gather(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Refuse: ring attention alone calls this, and needs CUDA kernels of its own."""
    raise NotImplementedError("--ds.ring_attn_size > 1 needs CUDA")
