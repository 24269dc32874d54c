//! Asking for memory before it is needed: a decode step is bound by it.
//!
//! The hardware follows one stream well, but a block of keys is read across its rows, and with tokens
//! outermost a head's rows lie kilobytes apart. So while one block is scored, the values of the same
//! block and the keys of the next one are asked for, a few cache lines with each step.

use crate::simd::Simd;
use crate::view::RawMat;

const LINE: usize = 64;

/// Rows that will be read, and how many lines of them have been asked for.
pub struct Ahead {
    parts: [Part; 2],
    /// Lines to ask for with each step.
    step: usize,
}

#[derive(Clone, Copy)]
struct Part {
    next: *const u8,
    /// Lines of a row, and how many of the current one are left.
    row: usize,
    left: usize,
    /// Rows left, with the current one.
    rows: usize,
    /// Bytes from the end of a row's last line to the next row.
    gap: usize,
}

impl Part {
    fn new(m: RawMat) -> Part {
        let size = m.kind.size();
        let (len, stride) = (m.cols * size, m.row_stride * size);
        // Rows without a gap are one row.
        let (len, rows) = if stride == len { (len * m.rows, 1) } else { (len, m.rows) };
        let row = len.div_ceil(LINE);
        let rows = if row == 0 { 0 } else { rows };
        Part { next: m.bytes(), row, left: row, rows, gap: stride.wrapping_sub(row * LINE) }
    }

    /// Asks for up to `n` lines; returns how many of them were not there.
    #[inline(always)]
    fn ask<S: Simd>(&mut self, s: S, mut n: usize) -> usize {
        while n > 0 && self.rows > 0 {
            let run = n.min(self.left);
            for i in 0..run {
                s.prefetch(self.next.wrapping_add(i * LINE));
            }
            self.next = self.next.wrapping_add(run * LINE);
            self.left -= run;
            n -= run;
            if self.left == 0 {
                self.next = self.next.wrapping_add(self.gap);
                (self.left, self.rows) = (self.row, self.rows - 1);
            }
        }
        n
    }
}

impl Ahead {
    /// All of `first`, then all of `second`, within `steps` steps.
    pub fn new(first: RawMat, second: RawMat, steps: usize) -> Ahead {
        let parts = [Part::new(first), Part::new(second)];
        let lines: usize = parts.iter().map(|part| part.rows * part.row).sum();
        Ahead { parts, step: lines.div_ceil(steps.max(1)) }
    }

    /// Asks for the next lines.
    #[inline(never)]
    pub fn step<S: Simd>(&mut self, s: S) {
        s.vectorize(
            #[inline(always)]
            || {
                let n = self.parts[0].ask(s, self.step);
                self.parts[1].ask(s, n);
            },
        );
    }
}
