"""onnxruntime: its operators for attention, each as a model of one node."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from way import Way

VERSION = onnxruntime.__version__
KINDS = {"f32": (np.float32, TensorProto.FLOAT), "f16": (np.float16, TensorProto.FLOAT16)}
CONTRIB = "com.microsoft"


def session(node, inputs, outputs):
    kinds = {np.dtype(np.int32): TensorProto.INT32} | {np.dtype(kind): proto for kind, proto in KINDS.values()}

    def infos(values):
        return [helper.make_tensor_value_info(name, kinds[x.dtype], x.shape) for name, x in values.items()]

    graph = helper.make_graph([node], "attention", infos(inputs), infos(outputs))
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 11
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def way(name, node, inputs, outputs, result, same=()):
    """`same`: pairs of an output and the input that is its memory."""
    run = session(node, inputs, outputs)
    binding = run.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in inputs.items()}
    same = dict(same)
    for key, x in outputs.items():
        values[key] = values[same[key]] if key in same else onnxruntime.OrtValue.ortvalue_from_numpy(x)
    for key in inputs:
        binding.bind_ortvalue_input(key, values[key])
    for key in outputs:
        binding.bind_ortvalue_output(key, values[key])
    out = lambda: result(values["out"].numpy().astype(np.float32))
    return Way(name, lambda: run.run_with_iobinding(binding), out)


def ways(problem):
    p = problem
    if p.kind not in KINDS:
        return
    kind = KINDS[p.kind][0]

    def heads(x):
        return np.ascontiguousarray(x[None], kind)

    def tokens(x):
        return np.ascontiguousarray(x.transpose(1, 0, 2), kind).reshape(1, x.shape[1], -1)

    out_heads = np.zeros((1, p.n_heads, p.q_len, p.head_dim), kind)
    out_tokens = np.zeros((1, p.q_len, p.n_heads * p.head_dim), kind)

    def from_tokens(out):
        return out.reshape(p.q_len, p.n_heads, p.head_dim).transpose(1, 0, 2)

    node = helper.make_node("Attention", ["q", "k", "v"], ["out"], scale=p.scale, is_causal=int(p.causal))
    inputs = {"q": heads(p.q), "k": heads(p.k), "v": heads(p.v)}
    yield way("Attention", node, inputs, {"out": out_heads}, lambda out: out[0])

    if p.group == 1:
        options = {"num_heads": p.n_heads, "scale": p.scale, "unidirectional": int(p.causal)}
        node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["out"], domain=CONTRIB, **options)
        for name, keys in ("MultiHeadAttention", tokens), ("MultiHeadAttention, keys by heads", heads):
            inputs = {"q": tokens(p.q), "k": keys(p.k), "v": keys(p.v)}
            yield way(name, node, inputs, {"out": out_tokens}, from_tokens)

    # It is always causal; its cache is a memory that it appends to, past and present in one.
    if p.causal or p.q_len == 1:
        names = ["q", "k", "v", "past_k", "past_v", "last", "total"]
        options = {"num_heads": p.n_heads, "kv_num_heads": p.n_kv_heads, "scale": p.scale}
        outs = ["out", "present_k", "present_v"]
        node = helper.make_node("GroupQueryAttention", names, outs, domain=CONTRIB, **options)
        new_k, new_v = p.k[:, p.kv_len - p.q_len :], p.v[:, p.kv_len - p.q_len :]
        inputs = {"q": tokens(p.q), "k": tokens(new_k), "v": tokens(new_v)}
        inputs |= {"past_k": heads(p.k), "past_v": heads(p.v)}
        inputs |= {"last": np.array([p.kv_len - 1], np.int32), "total": np.array(p.kv_len, np.int32)}
        outputs = {"out": out_tokens, "present_k": heads(p.k), "present_v": heads(p.v)}
        same = [("present_k", "past_k"), ("present_v", "past_v")]
        yield way("GroupQueryAttention", node, inputs, outputs, from_tokens, same)
