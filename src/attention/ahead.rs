//! What memory is asked for before it is read, so that nothing waits for it: by few rows ([`Ahead`], [`Asked`]), and by the
//! values of many ([`Wanted`]).

use core::ops::Range;

use super::Shared;
use super::block::Block;
use super::call::Problem;
use super::keys::SequenceKeys;
use super::mask::bits;
use super::panel::Panel;
use super::rule::Tile;
use super::together::{first_block, rows_together};
use crate::kernel::softmax::BLOCK;
use crate::simd::{LINE, Simd, lines};
use crate::view::{RawMat, RawTensor, Sequence};

/// Bytes that are asked for ahead of those that are worked on.
const AHEAD: usize = 20 << 10;

/// What is asked for while heads take turns, `keys` keys of each: the keys of the turn that is `by` turns later.
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
    fn of(rows: RawMat, step: usize) -> Later {
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

    /// Asks for one line: none twice, since that would hold one of the L1's few buffers of lines under way.
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

/// Asks at once for some rows of a view, as bits: in the loop of a tile, finding them would cost 4% of it.
#[inline(always)]
fn ask_rows<S: Simd>(s: S, rows: RawMat, wanted: u64) {
    let size = rows.kind.size();
    for row in (0..rows.rows).filter(|row| wanted >> row & 1 == 1) {
        s.prefetch_all(rows.bytes().wrapping_add(row * rows.row_stride * size), rows.cols * size);
    }
}

/// What a few rows' kernels ask for on their way.
#[derive(Clone, Copy)]
pub enum Asked {
    Nothing,
    /// Rows that are as long as those that are read, in the same steps.
    Rows(Lines),
    /// Other rows, a step's bytes at a time.
    Later(Later),
}

impl Asked {
    /// Rows of a view, if there is one. If only `some` of them are wanted, as bits, in fewer steps than there are rows:
    /// where that is most of them all of the first rows, one a step, and the others at once; else all at once.
    #[inline(always)]
    pub fn rows<S: Simd>(s: S, rows: Option<RawMat>, some: Option<(u64, usize)>) -> Asked {
        match (rows, some) {
            (None, _) => Asked::Nothing,
            (Some(rows), None) => Asked::Rows(Lines::of_rows(rows)),
            (Some(rows), Some((wanted, steps))) => {
                let most = 4 * steps >= 3 * rows.rows;
                ask_rows(s, rows, if most { wanted & !bits(0, steps.min(BLOCK)) } else { wanted });
                if most { Asked::Rows(Lines::of_rows(rows)) } else { Asked::Nothing }
            }
        }
    }

    /// Rows of a view, if there is one, in steps of `step`.
    #[inline(always)]
    pub fn later(rows: Option<RawMat>, step: usize) -> Asked {
        rows.map_or(Asked::Nothing, |rows| Asked::Later(Later::of(rows, step)))
    }
}

/// Lines of rows at one stride. A tile of many rows asks for those of a column, one in each step: an address and an
/// addition, where the multipliers leave room.
#[derive(Clone, Copy)]
pub struct Lines {
    pub at: *const u8,
    pub stride: usize,
    /// Columns that are left, and bytes from one to the next.
    left: usize,
    pub step: usize,
}

impl Lines {
    pub const NONE: Lines = Lines { at: core::ptr::null(), stride: 0, left: 0, step: 0 };

    /// All lines of rows of `bytes`. One that was left out would be waited for as long as all of them.
    #[inline(always)]
    fn of(row: *const u8, stride: usize, bytes: usize) -> Lines {
        let (at, left) = lines(row, stride, bytes);
        Lines { at, stride, left, step: LINE }
    }

    #[inline(always)]
    fn of_rows(rows: RawMat) -> Lines {
        let size = rows.kind.size();
        Lines::of(rows.bytes(), rows.row_stride * size, rows.cols * size)
    }

    /// The same rows from a byte on.
    #[inline(always)]
    pub fn from(self, byte: usize) -> Lines {
        Lines { at: self.at.wrapping_add(byte), ..self }
    }

    /// Asks for the next `bytes` of a row that is read, and goes to the next row.
    #[inline(always)]
    pub fn row<S: Simd>(&mut self, s: S, bytes: usize) {
        for i in (0..bytes).step_by(LINE) {
            s.prefetch(self.at.wrapping_add(i));
        }
        self.at = self.at.wrapping_add(self.stride);
    }

    /// Asks for the next line of each of `n` rows.
    #[inline(always)]
    pub fn column<S: Simd>(&mut self, s: S, n: usize) {
        let mut at = self.at;
        for _ in 0..n {
            s.prefetch(at);
            at = at.wrapping_add(self.stride);
        }
        self.at = self.at.wrapping_add(LINE);
    }

    /// The part of one of `n`.
    #[inline(always)]
    fn part(self, i: usize, n: usize) -> Lines {
        let at = self.at.wrapping_add(i * LINE);
        Lines { at, left: (self.left + n - 1 - i).checked_div(n).unwrap_or(0), step: n * LINE, ..self }
    }
}

/// What a panel of many rows asks for while it weights the values of a block.
pub struct Wanted([Lines; 6]);

/// Some panel's first row, and a block.
#[derive(Clone, Copy)]
struct Place {
    kv_head: usize,
    row: usize,
    start: usize,
}

impl Wanted {
    /// What tensors say for the panel that follows. Its part of the keys and values that will be copied for the next
    /// block; in its last block also where its output goes, and the queries that will take their rows' places. Nothing for
    /// few rows.
    pub fn of<S: Simd>(panel: &Panel, block: &Block) -> Wanted {
        if !const { S::PREFETCHES } || !panel.in_lanes {
            return Wanted([Lines::NONE; 6]);
        }
        let p = panel.p;
        let (rows, next) = (p.q.len * p.group.get(), block.start + BLOCK);
        // The panel is number `i` of those that take each block together, of which the first `done` do not see the next.
        let together = rows_together::<S>(p);
        let (n, i) =
            if panel.alone { (together / S::PANEL, panel.first % together / S::PANEL) } else { (1, 0) };
        let first = panel.first.saturating_sub(i * S::PANEL);
        let n = n.min((rows - first).div_ceil(S::PANEL));
        let sees = |i: usize| p.seen((first + (i + 1) * S::PANEL).min(rows) - 1).end > next;
        let done = (0..i).take_while(|&i| !sees(i)).count();
        let last = !block.more || skips(panel.p, panel.first..panel.first + panel.rows, next..p.k.len);
        let here = Place { kv_head: panel.kv_head, row: first, start: next };
        let place = match last {
            true if panel.alone => here.after::<S>(p, rows, first + together),
            true => None,
            false => Some(here),
        };
        let part = if last { (i, n) } else { (i - done, n - done) };
        let lines = |m: &SequenceKeys| place.map_or(Lines::NONE, |place| of_keys(m, place, part));
        let (k, v) = (lines(&p.k), lines(&p.v));
        let follows = match i + 1 < n {
            true => Some(Place { row: panel.first + S::PANEL, start: block.start, ..here }),
            false if last => place,
            false => Some(Place { row: first + done * S::PANEL, ..here }),
        };
        let said = |tensor: Option<&RawTensor>| match (tensor, follows) {
            (Some(tensor), Some(place)) => of_tensor(p, tensor, place),
            _ => Lines::NONE,
        };
        let bias = said(p.options.bias.as_ref().map(|Shared((bias, _))| bias));
        let mask = said(p.options.mask.as_ref().map(|Shared(mask)| mask));
        let of = |of: &Sequence, h: usize, query: usize| match last && query < p.q.len && p.group.get() == 1 {
            true => Lines::of_rows(of.run(h, 0, query, 1)),
            false => Lines::NONE,
        };
        let out = of(&p.out, panel.kv_head, panel.first);
        let q = place.map_or(Lines::NONE, |place| of(&p.q, place.kv_head, place.row + i * S::PANEL));
        Wanted([bias, mask, k, v, out, q])
    }

    /// Columns that are left.
    #[inline(always)]
    pub fn left(&self) -> usize {
        self.0.iter().map(|lines| lines.left).sum()
    }

    /// Some columns of lines, or a line that is there again and again.
    #[inline(always)]
    pub fn next(&mut self, columns: usize) -> Lines {
        for lines in &mut self.0 {
            if lines.left > 0 {
                let first = *lines;
                let by = columns.min(lines.left);
                (lines.left, lines.at) = (lines.left - by, lines.at.wrapping_add(by * lines.step));
                return first;
            }
        }
        Lines { at: (&raw const *self).cast(), ..Lines::NONE }
    }
}

impl Place {
    /// The first block of the panels that come after those here: from row `row` on, or of the next head.
    fn after<S: Simd>(self, p: &Problem, rows: usize, row: usize) -> Option<Place> {
        let (kv_head, row) = if row < rows { (self.kv_head, row) } else { (self.kv_head + 1, 0) };
        if kv_head == p.k.n_heads() {
            return None;
        }
        let first = first_block((p.seen(row).start, 0));
        // If a rule skips the first block that they see for their place, it may be the next one here.
        let skipped = skips(p, row..rows.min(row + S::PANEL), first..p.k.len.min(first + BLOCK));
        Some(Place { kv_head, row, start: if skipped { self.start } else { first } })
    }
}

/// Whether a rule for tiles says that none of the rows sees any of the keys.
fn skips(p: &Problem, rows: Range<usize>, keys: Range<usize>) -> bool {
    let Some(rule) = p.options.mask_rule else { return false };
    let queries = rows.start / p.group..rows.end.saturating_sub(1) / p.group + 1;
    !rows.is_empty() && !keys.is_empty() && matches!(rule.tile(queries, keys), Tile::Skip)
}

/// Part `i` of `n` of a block's keys or values, if they lie at one stride. Also side by side: tiles of values read them
/// column by column, which no processor guesses.
#[inline(always)]
fn of_keys(m: &SequenceKeys, place: Place, (i, n): (usize, usize)) -> Lines {
    let there = BLOCK.min(m.len.saturating_sub(place.start));
    if there == 0 {
        return Lines::NONE;
    }
    let rows = m.run(place.kv_head, place.start, there);
    if rows.rows < there { Lines::NONE } else { Lines::of_rows(rows).part(i, n) }
}

/// What a tensor says of a panel's rows, if that lies at one stride.
fn of_tensor(p: &Problem, tensor: &RawTensor, place: Place) -> Lines {
    if p.group.get() > 1 && !tensor.same_for_heads() {
        return Lines::NONE;
    }
    let (query, head) = (place.row / p.group, place.kv_head * p.group.get());
    let (row, stride, bytes) = tensor.rows(p.b, head, query, place.start, BLOCK);
    Lines::of(row, stride, bytes)
}
