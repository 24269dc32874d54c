//! Contenders in turn in one process, A B C A B C, until the time is over: of each the best counts.
//!
//! Times are CPU time, so what other processes take does not count. A rate is the best of many rounds.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Instant;

use cpu_time::ProcessTime;
use qkv::Tier;

use crate::common::limits::chains;

/// The least that one timing lasts, so that neither the clock's resolution nor its cost matters (seconds).
const SHORTEST: f64 = 500e-6;
/// Who takes this many times as long as ours, and this long (seconds), is timed by one call only.
const SLOW: (f64, f64) = (8.0, 0.05);

/// Who takes less (seconds) runs once untimed before each timing: from the caches that its operands fit,
/// whoever had them before. Without, one call a turn is always cold, and many are not.
const CACHED: f64 = 10e-3;

/// Why something could not be measured.
pub type Failure = Box<dyn std::error::Error>;

/// Seconds of CPU time of this many calls.
pub type Time<'a> = Box<dyn FnMut(usize) -> Result<f64, Failure> + 'a>;

/// One that computes, or reads memory, or adds in chains.
pub struct Contender<'a> {
    pub name: String,
    /// Seconds of the best call.
    pub best: f64,
    pub rounds: usize,
    time: Time<'a>,
    slow: bool,
}

impl<'a> Contender<'a> {
    pub fn new(name: impl Into<String>, time: Time<'a>) -> Contender<'a> {
        Contender { name: name.into(), best: f64::MAX, rounds: 0, time, slow: false }
    }

    /// A call on work that all share and that moves between rounds.
    pub fn on<W>(
        name: impl Into<String>,
        work: &'a RefCell<W>,
        mut call: impl FnMut(&mut W) + 'a,
    ) -> Contender<'a> {
        let time = move |calls| {
            let mut work = work.borrow_mut();
            Ok(cpu_seconds(calls, || call(&mut work)))
        };
        Contender::new(name, Box::new(time))
    }

    /// The chains of fused multiply-adds whose rate is the FMA peak. They have some turns before the
    /// rounds: where rounds are few, too low a peak would flatter all.
    pub fn chains() -> Result<Contender<'static>, Failure> {
        let time = |calls| Ok(cpu_seconds(calls, || _ = black_box(chains(Tier::detect()))));
        let mut contender = Contender::new("chains", Box::new(time));
        contender.first()?;
        (0..50).try_for_each(|_| contender.turn())?;
        Ok(contender)
    }

    /// The first call: fills caches and the peer's own memory.
    pub fn first(&mut self) -> Result<(), Failure> {
        self.best = (self.time)(1)?;
        Ok(())
    }

    /// Leaves the rounds if it is much slower than this time.
    pub fn drop_if_slower(&mut self, seconds: f64) {
        self.slow = self.best > SLOW.0 * seconds && self.best > SLOW.1;
    }

    fn turn(&mut self) -> Result<(), Failure> {
        if self.best < CACHED {
            (self.time)(1)?;
        }
        let calls = (SHORTEST / self.best).clamp(1.0, 1e6).ceil();
        let seconds = (self.time)(calls as usize)? / calls;
        self.best = self.best.min(seconds);
        self.rounds += 1;
        Ok(())
    }
}

/// How long a shape is measured.
#[derive(Clone, Copy)]
pub struct Plan {
    pub seconds: f64,
    /// Rounds at the least, whatever the time.
    pub rounds: usize,
}

/// Visits all contenders once a round, in an order drawn anew each time: nobody always runs on the
/// caches that the same other has left. `place` moves the operands before each round.
pub fn in_turn(
    contenders: &mut [Contender],
    plan: Plan,
    mut place: impl FnMut(usize),
    mut progress: impl FnMut(f64),
) -> Result<(), Failure> {
    let (start, mut dice) = (Instant::now(), fastrand::Rng::with_seed(1));
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for round in 0.. {
        place(round);
        dice.shuffle(&mut order);
        for &i in order.iter().filter(|&&i| !contenders[i].slow).collect::<Vec<_>>() {
            contenders[i].turn()?;
        }
        let part = start.elapsed().as_secs_f64() / plan.seconds;
        progress(part.min(1.0));
        if part >= 1.0 && round + 1 >= plan.rounds {
            break;
        }
    }
    Ok(())
}

fn cpu_seconds(calls: usize, mut call: impl FnMut()) -> f64 {
    let start = ProcessTime::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_secs_f64()
}
