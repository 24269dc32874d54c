"""PyTorch: scaled_dot_product_attention."""

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from way import Way

VERSION = torch.__version__
KINDS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def ways(problem):
    p, kind = problem, KINDS[problem.kind]
    q, k, v = (torch.from_numpy(np.array(x))[None].to(kind) for x in (p.q, p.k, p.v))
    kept = {}

    def way(name, q, **options):
        def call():
            kept["out"] = scaled_dot_product_attention(q, k, v, scale=p.scale, **options)

        shape = (p.n_heads, p.q_len, p.head_dim)
        return Way(name, call, lambda: kept["out"].float().reshape(shape).numpy())

    yield way("sdpa", q, is_causal=p.causal, enable_gqa=p.group > 1)
    if p.group > 1 and not p.causal:
        # Queries of the heads that share a key head as more queries of one head.
        yield way("sdpa, groups as queries", q.reshape(1, p.n_kv_heads, p.group * p.q_len, p.head_dim))
