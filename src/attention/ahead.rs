//! What memory is asked for before it is read, so that nothing waits for it.

use core::ops::Range;

use super::Shared;
use super::block::Block;
use super::keys::SequenceKeys;
use super::panel::{Panel, first_block, rows_together};
use super::rule::Tile;
use super::scratch::panels;
use crate::kernel::softmax::BLOCK;
use crate::simd::Simd;
use crate::view::{RawMat, RawTensor, Sequence};

const LINE: usize = 64;
/// Bytes that are asked for ahead of those that are worked on.
const AHEAD: usize = 20 << 10;

/// What is asked for while some keys of each of some heads are worked on in turn: those of so many heads further on.
#[derive(Clone, Copy)]
pub struct Ahead {
    heads: usize,
    /// Keys of a head that are worked on before those of the next one.
    keys: usize,
    /// Heads further on; after the last head come the next keys of the first one.
    by: usize,
}

impl Ahead {
    /// `bytes`: of so many `keys` of a head.
    pub fn of_size(heads: usize, keys: usize, bytes: usize) -> Ahead {
        Ahead { heads, keys, by: AHEAD.div_ceil(bytes.max(1)) }
    }

    /// Head and key, while those of head `h` from key `t` on are worked on.
    #[inline(always)]
    pub fn of(self, h: usize, t: usize) -> (usize, usize) {
        let by = h + self.by;
        let rounds = by.checked_div(self.heads).unwrap_or(0);
        (by - rounds * self.heads, t + rounds * self.keys)
    }
}

/// Rows of memory that are wanted soon, asked for little by little.
#[derive(Clone, Copy)]
pub struct Later {
    /// What is asked for next, and the end of its row.
    at: *const u8,
    end: *const u8,
    first: *const u8,
    stride: usize,
    /// Bytes of a row.
    len: usize,
    rows: usize,
    /// From one row that is asked for to the next, and then again from the second row on, and so on.
    step: usize,
    row: usize,
    turn: usize,
    /// Bytes that are no whole line yet.
    due: usize,
}

impl Later {
    /// The rows of a view, in steps of `step`.
    #[inline(always)]
    pub fn of(rows: RawMat, step: usize) -> Later {
        let size = rows.kind.size();
        let (first, stride, len) = (rows.bytes(), rows.row_stride * size, rows.cols * size);
        let end = first.wrapping_add(len);
        Later { at: first, end, first, stride, len, rows: rows.rows, step, row: 0, turn: 0, due: 0 }
    }

    /// Asks for the next `bytes`: a step of work asks for as many as it reads, so that memory is never idle and
    /// never asked for more than it can note. Whole rows, since memory answers faster in order.
    #[inline(always)]
    pub fn ask<S: Simd>(&mut self, s: S, bytes: usize) {
        self.due += bytes % LINE;
        let more = self.due >= LINE;
        for _ in 0..bytes / LINE {
            self.line(s);
        }
        if more {
            self.due -= LINE;
            self.line(s);
        }
    }

    /// Asks at once for some rows, as bits: in the loop of a tile, finding them would cost 4% of it.
    #[inline(always)]
    pub fn ask_rows<S: Simd>(&self, s: S, wanted: u64) {
        for row in (0..self.rows).filter(|row| wanted >> row & 1 == 1) {
            let first = self.first.wrapping_add(row * self.stride);
            for line in (0..self.len).step_by(LINE) {
                s.prefetch(first.wrapping_add(line));
            }
        }
    }

    /// Asks for one line: none twice, since that would hold what takes note of lines that memory has to bring.
    #[inline(always)]
    fn line<S: Simd>(&mut self, s: S) {
        s.prefetch(self.at);
        self.at = self.at.wrapping_add(LINE);
        if self.at >= self.end {
            self.row += self.step;
            if self.row >= self.rows {
                // After the last row, the first one again: it costs little, being there.
                self.turn = if self.turn + 1 < self.step { self.turn + 1 } else { 0 };
                self.row = self.turn;
            }
            // A row that ends within a line owes the next one the rest of it, or rows would be left unasked.
            let over = self.at as usize - self.end as usize;
            self.at = self.first.wrapping_add(self.row * self.stride);
            self.end = self.at.wrapping_add(self.len);
            self.at = self.at.wrapping_add(over);
        }
    }
}

/// Lines of rows at one stride. A tile of many rows asks for those of a column, one in each step: an address and an
/// addition, where the multipliers leave room.
#[derive(Clone, Copy)]
pub struct Lines {
    pub at: *const u8,
    pub stride: usize,
    /// Columns that are left, and from one to the next.
    left: usize,
    step: usize,
}

impl Lines {
    const NONE: Lines = Lines { at: core::ptr::null(), stride: 0, left: 0, step: 0 };

    /// All lines of rows of `bytes`. One that was left out would be waited for as long as all of them.
    fn of(row: *const u8, stride: usize, bytes: usize) -> Lines {
        let before = row as usize % LINE;
        // Rows that do not all begin at the same place of a line may end in one more.
        let after = if stride.is_multiple_of(LINE) { 0 } else { LINE - 1 };
        let left = (before + bytes + after).div_ceil(LINE);
        Lines { at: row.wrapping_sub(before), stride, left, step: LINE }
    }

    fn of_rows(rows: RawMat) -> Lines {
        let size = rows.kind.size();
        Lines::of(rows.bytes(), rows.row_stride * size, rows.cols * size)
    }

    /// The part of one of `n`.
    fn part(self, i: usize, n: usize) -> Lines {
        let at = self.at.wrapping_add(i * LINE);
        Lines { at, left: (self.left + n - 1 - i) / n, step: n * LINE, ..self }
    }
}

/// What a panel of many rows asks for while it weights the values of a block.
pub struct Wanted([Lines; 4]);

impl Wanted {
    /// Its part of the keys and values that will be copied for the next block, and what tensors say of it. In its
    /// last block it is where its output goes, and the queries, keys and values of the panels that follow.
    pub fn of<S: Simd>(panel: &Panel, block: &Block) -> Wanted {
        if !const { S::PREFETCHES } {
            return Wanted([Lines::NONE; 4]);
        }
        let (p, options) = (panel.p, panel.p.options);
        let rows = p.q.len * p.group.get();
        // Of the panels that take each block together this is number `i`.
        let (n, i) = (panels(p.q.len).max(1), panel.first / S::PANEL % panels(p.q.len).max(1));
        let first = panel.first.saturating_sub(i * S::PANEL);
        let copied = |m: &SequenceKeys, h: usize, start: usize, (i, n): (usize, usize)| {
            let there = BLOCK.min(m.len.saturating_sub(start));
            if m.side_by_side() || there == 0 {
                return Lines::NONE;
            }
            let rows = m.run(h, start, there);
            if rows.rows < there { Lines::NONE } else { Lines::of_rows(rows).part(i, n) }
        };
        let next = block.start + BLOCK;
        let skips = |rows: Range<usize>, keys: Range<usize>| match options.mask_rule {
            Some(rule) if !rows.is_empty() && !keys.is_empty() => {
                let queries = rows.start / p.group..(rows.end - 1) / p.group + 1;
                matches!(rule.tile(queries, keys), Tile::Skip)
            }
            _ => false,
        };
        if !block.more || skips(panel.first..panel.first + panel.rows, next..p.k.len) {
            let of = |of: &Sequence, h: usize, query: usize| match query < p.q.len && p.group.get() == 1 {
                true => Lines::of_rows(of.run(h, 0, query, 1)),
                false => Lines::NONE,
            };
            let out = of(&p.out, panel.kv_head, panel.first);
            let row = first + rows_together::<S>(p);
            let (head, row) = if row < rows { (panel.kv_head, row) } else { (panel.kv_head + 1, 0) };
            if head == p.k.n_heads() {
                return Wanted([out, Lines::NONE, Lines::NONE, Lines::NONE]);
            }
            let start = first_block((p.seen(row).start, 0));
            let few = row..rows.min(row + S::PANEL);
            let start = if skips(few, start..p.k.len.min(start + BLOCK)) { next } else { start };
            let [k, v] = [&p.k, &p.v].map(|m| copied(m, head, start, (i, n)));
            return Wanted([out, of(&p.q, head, row + i * S::PANEL), k, v]);
        }
        let sees = |i: usize| p.seen((first + (i + 1) * S::PANEL).min(rows) - 1).end > next;
        let panels = n.min((rows - first).div_ceil(S::PANEL));
        let before = (0..i).take_while(|&i| !sees(i)).count();
        let [k, v] = [&p.k, &p.v].map(|m| copied(m, panel.kv_head, next, (i - before, panels - before)));
        let (query, head) = panel.row(0);
        let of_tensor = |tensor: Option<RawTensor>| match tensor {
            Some(tensor) if p.group.get() == 1 || tensor.same_for_heads() => {
                let (row, stride, bytes) = tensor.rows(p.b, head, query, next, BLOCK);
                Lines::of(row, stride, bytes)
            }
            _ => Lines::NONE,
        };
        let bias = options.bias.map(|Shared((bias, _))| bias);
        let mask = options.mask.map(|Shared(mask)| mask);
        Wanted([k, v, of_tensor(bias), of_tensor(mask)])
    }

    /// A column of lines, or a line that is there again and again.
    #[inline(always)]
    pub fn next(&mut self) -> Lines {
        for lines in &mut self.0 {
            if lines.left > 0 {
                let column = *lines;
                (lines.left, lines.at) = (lines.left - 1, lines.at.wrapping_add(lines.step));
                return column;
            }
        }
        Lines { at: (&raw const *self).cast(), ..Lines::NONE }
    }
}
