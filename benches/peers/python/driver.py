"""Attention of one library, on one thread, for a program that says what and when.

    driver.py onnxruntime|torch|openvino

It says a line "ok VERSION", then reads lines and answers each with one; a line that begins with "error" says why not:

    prepare KIND Q_LEN KV_LEN N_HEADS N_KV_HEADS HEAD_DIM CAUSAL
        then Q, K and V as f32, [heads][tokens][head_dim], little-endian.
        "ok WAYS" and the result of each way of the library in the same form; none if it does not do that.
    time CALLS
        "ok SECONDS": CPU time of the process for so many calls, of the quickest way.
"""

import importlib
import os
import sys
import time
from dataclasses import dataclass

# Before any library is loaded. What a library prints must not get between the answers.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)

import numpy as np


@dataclass
class Problem:
    kind: str
    q_len: int
    kv_len: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    causal: bool
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray

    @property
    def scale(self):
        return self.head_dim**-0.5

    @property
    def group(self):
        return self.n_heads // self.n_kv_heads


def seconds(way, calls):
    way.before()
    start = time.process_time_ns()
    for _ in range(calls):
        way.call()
    return (time.process_time_ns() - start) * 1e-9


def worthwhile(ways):
    """The ways that may be the best one: which is differs between a first look and many rounds."""
    best, timed = float("inf"), []
    for way in ways:
        # The first call makes what the others find, and shows what is far too slow.
        taken = seconds(way, 1)
        if taken < 4 * best:
            taken = min(taken, *(seconds(way, 1) for _ in range(5)))
            timed.append((taken, way))
            best = min(best, taken)
    return [way for taken, way in timed if taken < 2 * best]


def read_exactly(count):
    data = sys.stdin.buffer.read(count)
    if len(data) != count:
        raise EOFError("the input has ended")
    return data


def read_problem(words):
    kind, sizes = words[0], [int(word) for word in words[1:]]
    q_len, kv_len, n_heads, n_kv_heads, head_dim, causal = sizes

    def operand(heads, tokens):
        data = bytearray(read_exactly(4 * heads * tokens * head_dim))
        return np.frombuffer(data, "<f4").reshape(heads, tokens, head_dim)

    q, k, v = operand(n_heads, q_len), operand(n_kv_heads, kv_len), operand(n_kv_heads, kv_len)
    return Problem(kind, q_len, kv_len, n_heads, n_kv_heads, head_dim, bool(causal), q, k, v)


def say(line, data=b""):
    answers.write(line.replace("\n", " ").encode() + b"\n" + data)
    answers.flush()


def main():
    library = sys.argv[1]
    try:
        peer = importlib.import_module(f"peer_{library}")
    except Exception as error:
        say(f"error {type(error).__name__}: {error}")
        return
    say(f"ok {peer.VERSION}")
    ways = []
    for line in iter(sys.stdin.buffer.readline, b""):
        words = line.decode().split()
        try:
            if words[0] == "prepare":
                # The operands of the last problem are let go first.
                ways = []
                ways = worthwhile(peer.ways(read_problem(words[1:])))
                results = []
                for way in ways:
                    seconds(way, 1)
                    results.append(np.ascontiguousarray(way.result(), "<f4").tobytes())
                say(f"ok {len(ways)}", b"".join(results))
            elif words[0] == "time":
                say(f"ok {min(seconds(way, int(words[1])) for way in ways)}")
            else:
                say(f"error {words[0]} is neither prepare nor time")
        except Exception as error:
            say(f"error {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
