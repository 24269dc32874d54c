//! Operands that lie elsewhere in each round, so that nobody is tuned to one alignment.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Places: so many whole lines, less so many `f32`s.
const LINES: usize = 7;
const LESS: [usize; 5] = [0, 1, 4, 8, 12];

/// Numbers with room to move.
pub struct Buffer<T> {
    room: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy> Buffer<T> {
    pub fn new(mut numbers: Vec<T>) -> Buffer<T> {
        let len = numbers.len();
        if let Some(&any) = numbers.first() {
            numbers.resize(len + (LINES + 1) * LINE / size_of::<T>(), any);
        }
        let mut buffer = Buffer { room: numbers, start: 0, len };
        buffer.place(0);
        buffer
    }

    /// Moves the numbers to where they lie in this round.
    pub fn place(&mut self, round: usize) {
        let line = LINE / size_of::<T>();
        let less = LESS[round % LESS.len()] * size_of::<f32>() / size_of::<T>();
        let start = self.room.as_ptr().align_offset(LINE) + (1 + round % (LINES - 1)) * line - less;
        self.room.copy_within(self.start..self.start + self.len, start);
        self.start = start;
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.room[self.start..][..self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.room[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn numbers_stay_the_same_where_they_move() {
        let numbers: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let (mut buffer, mut places) = (Buffer::new(numbers.clone()), Vec::new());
        for round in 0..30 {
            buffer.place(round);
            places.push(buffer.as_ptr() as usize % 64);
            assert_eq!(*buffer, numbers, "round {round}");
        }
        places.sort_unstable();
        places.dedup();
        assert_eq!(places, [0, 16, 32, 48, 60]);
    }
}
