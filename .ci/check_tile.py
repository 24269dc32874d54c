#!/usr/bin/env python3
"""Checks the inner loop of the AVX2 register tile in a compiled binary: check_tile.py BINARY...

One `#[inline(always)]` too few, or a change in how the compiler allocates registers, costs several
times the speed, and no test fails. So every innermost loop with the 12 fused multiply-adds of a whole
6 x 2 tile must keep its accumulators in registers: at most two accesses to the stack and no moves
between vector registers. And there must be such loops, for f32, f16 and bf16 operands.
"""

import re
import subprocess
import sys

TILE = 12
MAX_STACK = 2
# One for each element type of B, at least.
MIN_LOOPS = 3

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
JUMP = re.compile(r"^j\w+\s+([0-9a-f]+)\b")
FMA = re.compile(r"^vfn?m(add|sub)\d+ps\b.*%ymm")
MOVE = re.compile(r"^vmov[au]p[sd]\s+%ymm\d+,%ymm\d+")


def functions(binary):
    """The instructions of each function, as (address, text)."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", binary]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    body = []
    for line in listing.splitlines():
        if FUNCTION.match(line):
            yield body
            body = []
        elif found := INSTRUCTION.match(line):
            body.append((int(found[1], 16), found[2]))
    yield body


def innermost_loops(body):
    """Straight runs of instructions that end in a jump to their first one."""
    place = {address: i for i, (address, _) in enumerate(body)}
    for end, (address, text) in enumerate(body):
        jump = JUMP.match(text)
        if not jump or int(jump[1], 16) > address:
            continue
        start = place.get(int(jump[1], 16))
        if start is None:
            continue
        loop = [text for _, text in body[start : end + 1]]
        if not any(JUMP.match(text) for text in loop[:-1]):
            yield address, loop


def check(binary):
    tiles, bad = 0, 0
    for body in functions(binary):
        for address, loop in innermost_loops(body):
            if sum(bool(FMA.match(text)) for text in loop) != TILE:
                continue
            tiles += 1
            stack = sum("(%rsp" in text for text in loop)
            moves = sum(bool(MOVE.match(text)) for text in loop)
            if stack > MAX_STACK or moves:
                bad += 1
                print(f"{binary}: the tile's loop that ends at {address:#x} has {stack} accesses to the "
                      f"stack and {moves} moves between registers:")
                print("    " + "\n    ".join(loop))
    print(f"{binary}: {tiles} inner loops of a whole AVX2 tile, {bad} of them spoilt")
    if tiles < MIN_LOOPS:
        print(f"expected at least {MIN_LOOPS}: is something under `vectorize` not inlined?")
    return tiles >= MIN_LOOPS and bad == 0


if __name__ == "__main__":
    sys.exit(0 if all([check(binary) for binary in sys.argv[1:]]) else 1)
