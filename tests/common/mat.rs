//! Matrices with guard values before, between and after their elements.

use super::buffer::{Buffer, Kind, Typed};
use super::{GUARD, Rng};
use qkv::{MatMut, MatRef};

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Columns are contiguous instead of rows.
    pub by_columns: bool,
    /// Unused places between two neighbours, and between two rows (columns).
    pub gap: usize,
    pub outer_gap: usize,
    /// The view is the `t()` of a view with the sizes exchanged.
    pub turned: bool,
}

impl Layout {
    pub const ROWS: Layout = Layout { by_columns: false, gap: 0, outer_gap: 0, turned: false };
    pub const COLUMNS: Layout = Layout { by_columns: true, gap: 0, outer_gap: 0, turned: true };

    pub fn random(rng: &mut Rng) -> Layout {
        Layout {
            by_columns: rng.below(2) == 1,
            gap: rng.pick(&[0, 0, 0, 1, 4]),
            outer_gap: rng.pick(&[0, 0, 1, 7]),
            turned: rng.below(2) == 1,
        }
    }
}

/// A matrix inside a larger buffer.
#[derive(Clone, Debug)]
pub struct Mat {
    pub buffer: Buffer,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
    /// The view's slice is `start..end` of the buffer.
    pub start: usize,
    pub end: usize,
    pub turned: bool,
}

impl Mat {
    /// Sentinels everywhere, the elements included, with [`GUARD`] more on both sides.
    pub fn new(kind: Kind, rows: usize, cols: usize, layout: Layout) -> Mat {
        Mat::with_guard(kind, rows, cols, layout, GUARD)
    }

    pub fn with_guard(kind: Kind, rows: usize, cols: usize, layout: Layout, guard: usize) -> Mat {
        let inner = if layout.by_columns { rows } else { cols };
        let (step, outer_step) = (1 + layout.gap, inner * (1 + layout.gap) + layout.outer_gap);
        let (row_stride, col_stride) =
            if layout.by_columns { (step, outer_step) } else { (outer_step, step) };
        let empty = rows == 0 || cols == 0;
        let extent = if empty { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 };
        let buffer = Buffer::new(kind, extent + 2 * guard);
        let turned = layout.turned;
        Mat { buffer, rows, cols, row_stride, col_stride, start: guard, end: guard + extent, turned }
    }

    /// The same without anything before and behind the view's slice.
    pub fn bare(&self) -> Mat {
        let buffer = self.buffer.part(self.start..self.end);
        Mat { buffer, start: 0, end: self.end - self.start, ..*self }
    }

    /// The elements from `bits`, row by row.
    pub fn fill_bits(mut self, bits: &mut dyn FnMut(Kind) -> u32) -> Mat {
        let kind = self.buffer.kind();
        for i in 0..self.rows {
            for j in 0..self.cols {
                let at = self.index(i, j);
                self.buffer.set_bits(at, bits(kind));
            }
        }
        self
    }

    /// Random elements in -1..1.
    pub fn random(self, rng: &mut Rng) -> Mat {
        self.fill_bits(&mut |kind| kind.bits(rng.unit()))
    }

    pub fn index(&self, i: usize, j: usize) -> usize {
        self.start + i * self.row_stride + j * self.col_stride
    }

    pub fn kind(&self) -> Kind {
        self.buffer.kind()
    }

    pub fn get(&self, i: usize, j: usize) -> f32 {
        self.buffer.value(self.index(i, j))
    }

    pub fn set(&mut self, i: usize, j: usize, x: f32) {
        let (at, bits) = (self.index(i, j), self.kind().bits(x));
        self.buffer.set_bits(at, bits);
    }

    fn indices(&self) -> impl Iterator<Item = usize> {
        (0..self.rows).flat_map(move |i| (0..self.cols).map(move |j| self.index(i, j)))
    }

    /// The elements, row by row, widened.
    pub fn values(&self) -> Vec<f32> {
        self.indices().map(|at| self.buffer.value(at)).collect()
    }

    /// The elements, column by column, widened.
    pub fn columns(&self) -> Vec<f32> {
        (0..self.cols).flat_map(|j| (0..self.rows).map(move |i| self.get(i, j))).collect()
    }

    /// The elements' bits, row by row.
    pub fn bits(&self) -> Vec<u32> {
        self.indices().map(|at| self.buffer.bits(at)).collect()
    }

    /// That only elements differ from `before`.
    pub fn check_guards(&self, before: &Mat) -> Result<(), String> {
        self.buffer.check_untouched(&before.buffer, self.indices())
    }

    /// That nothing differs from `before`.
    pub fn check_untouched(&self, before: &Mat) -> Result<(), String> {
        self.buffer.check_untouched(&before.buffer, core::iter::empty())
    }

    pub fn view<T: Typed>(&self) -> MatRef<'_, T> {
        let slice = &T::slice(&self.buffer)[self.start..self.end];
        let (rows, cols, row_stride, col_stride) = self.shape();
        let view = MatRef::with_strides(slice, rows, cols, row_stride, col_stride).expect("a valid layout");
        if self.turned { view.t() } else { view }
    }

    pub fn view_mut<T: Typed>(&mut self) -> MatMut<'_, T> {
        let (rows, cols, row_stride, col_stride) = self.shape();
        let turned = self.turned;
        let slice = &mut T::slice_mut(&mut self.buffer)[self.start..self.end];
        let view = MatMut::with_strides(slice, rows, cols, row_stride, col_stride).expect("a valid layout");
        if turned { view.t() } else { view }
    }

    /// Sizes and strides as the constructor gets them.
    fn shape(&self) -> (usize, usize, usize, usize) {
        match self.turned {
            true => (self.cols, self.rows, self.col_stride, self.row_stride),
            false => (self.rows, self.cols, self.row_stride, self.col_stride),
        }
    }
}
