"""OpenVINO: ScaledDotProductAttention, by itself and over a cache that it keeps."""

import numpy as np
import openvino
import openvino.opset13 as ops

from way import Way

VERSION = openvino.__version__
KINDS = {"f32": np.float32, "f16": np.float16}
OPTIONS = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,
}

core = openvino.Core()


def integers(*values):
    return ops.constant(np.array(values, np.int64))


def part(x, at):
    return ops.gather(x, ops.constant(np.array(at, np.int64)), ops.constant(np.int64(0)))


def repeated(keys, p):
    """Key heads, each as often as query heads share it."""
    if p.group == 1:
        return keys
    sizes = ops.shape_of(keys)
    target = ops.concat([part(sizes, [0, 1]), integers(p.group), part(sizes, [2, 3])], 0)
    wide = ops.broadcast(ops.unsqueeze(keys, integers(2)), target, broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(wide, integers(0, p.n_heads, -1, p.head_dim), True)


def result_of(request, p):
    def result():
        out = np.array(request.get_output_tensor(0).data).astype(np.float32)
        return out.reshape(p.n_heads, p.q_len, p.head_dim)

    return result


def plain(name, p, q, grouped):
    operands = [np.ascontiguousarray(x[None], KINDS[p.kind]) for x in (q, p.k, p.v)]
    q, k, v = inputs = [ops.parameter(list(x.shape), openvino.Type(x.dtype)) for x in operands]
    if grouped:
        k, v = repeated(k, p), repeated(v, p)
    node = ops.scaled_dot_product_attention(q, k, v, causal=p.causal)
    compiled = core.compile_model(openvino.Model([node], inputs, "attention"), "CPU", OPTIONS)
    request = compiled.create_infer_request()
    tensors = [openvino.Tensor(x, shared_memory=True) for x in operands]
    for i, tensor in enumerate(tensors):
        request.set_input_tensor(i, tensor)

    def call(_keep=(operands, tensors, compiled)):
        request.infer(share_inputs=True, share_outputs=True)

    return Way(name, call, result_of(request, p))


def with_cache(p):
    """A step that appends its key and value to a state, as a language model does. Each call makes the state longer."""
    f32 = openvino.Type.f32
    sizes = [-1, p.n_kv_heads, -1, p.head_dim]
    q = ops.parameter([-1, p.n_heads, -1, p.head_dim], f32)
    k, v = ops.parameter(sizes, f32), ops.parameter(sizes, f32)
    batch = ops.parameter([-1], openvino.Type.i32)
    keys, sinks = [], []
    for name, new in ("past_k", k), ("past_v", v):
        none = ops.concat([part(ops.shape_of(q), [0]), integers(p.n_kv_heads, 0, p.head_dim)], 0)
        empty = ops.broadcast(ops.constant(np.float32(0)), none)
        state = ops.read_value(empty, name, f32, openvino.PartialShape(sizes))
        past = ops.gather(state, batch, ops.constant(np.int64(0)))
        keys.append(ops.concat([past, new], 2))
        sinks.append(ops.assign(keys[-1], name))
    node = ops.scaled_dot_product_attention(q, *(repeated(x, p) for x in keys), causal=False)
    model = openvino.Model(
        results=[ops.result(node)], sinks=sinks, parameters=[q, k, v, batch], name="step"
    )
    compiled = core.compile_model(model, "CPU", OPTIONS | {"KV_CACHE_PRECISION": p.kind})
    request = compiled.create_infer_request()

    def step(t):
        new = [np.ascontiguousarray(x[None, :, t : t + 1]) for x in (p.k, p.v)]
        return [np.ascontiguousarray(p.q[None]), *new, np.zeros(1, np.int32)]

    # The step before the last is not timed: it brings the state into the form that the plugin likes.
    filled = {"past_k": p.k, "past_v": p.v}
    filled = {name: np.ascontiguousarray(x[None, :, : p.kv_len - 2]) for name, x in filled.items()}
    before_last, last = step(p.kv_len - 2), step(p.kv_len - 1)

    def before():
        request.reset_state()
        for state in request.query_state():
            state.state = openvino.Tensor(filled[state.name])
        request.infer(before_last, share_inputs=True, share_outputs=True)

    def call(_keep=compiled):
        request.infer(last, share_inputs=True, share_outputs=True)

    return Way("a step with a cache", call, result_of(request, p), before)


def ways(problem):
    p = problem
    if p.kind not in KINDS:
        return
    yield plain("ScaledDotProductAttention", p, p.q, p.group > 1)
    if p.group > 1 and not p.causal:
        folded = p.q.reshape(p.n_kv_heads, p.group * p.q_len, p.head_dim)
        yield plain("ScaledDotProductAttention, groups as queries", p, folded, False)
    if p.q_len == 1:
        yield with_cache(p)
