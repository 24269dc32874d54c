//! Whether an output is what it must be, and a test of that: near misses must be rejected.

use crate::case::{Stop, Truth};
use crate::common::buffer::{Buffer, Kind};

/// How far each element may be off.
pub type Bounds = Vec<f64>;

/// For operators of ONNX: an `f32` computation, rounded to the output's type.
pub fn of_operator(kind: Kind, truth: &Truth) -> Bounds {
    let bound = |&t: &f64| match kind {
        Kind::F32 => 2e-6 * truth.max_abs.max(1.0),
        Kind::F16 => 2.0_f64.powi(-11) * size(t) + 2.0_f64.powi(-24) + 2e-6 * truth.max_abs,
        Kind::Bf16 => 2.0_f64.powi(-8) * size(t) + 2e-6 * truth.max_abs,
    };
    truth.values.iter().map(bound).collect()
}

/// `error`, and what rounding to the output's type adds.
pub fn stored(kind: Kind, truth: &[f64], error: impl Fn(usize) -> f64) -> Bounds {
    let rounding = |t: f64| match kind {
        Kind::F32 => 0.0,
        Kind::F16 => 2.0_f64.powi(-11) * size(t) + 2.0_f64.powi(-25),
        Kind::Bf16 => 2.0_f64.powi(-8) * size(t),
    };
    truth.iter().enumerate().map(|(i, &t)| error(i) + rounding(t)).collect()
}

/// For log-sum-exps.
pub fn of_lse(truth: &[f64]) -> Bounds {
    truth.iter().map(|&t| 1e-5 * size(t).max(1.0)).collect()
}

/// What a bound grows with. An infinity or a NaN is met exactly, or not at all.
fn size(t: f64) -> f64 {
    if t.is_finite() { t.abs() } else { 0.0 }
}

/// Whether one number is right.
fn fits(kind: Kind, got: f32, truth: f64, bound: f64) -> bool {
    let got = f64::from(got);
    if truth.is_nan() {
        got.is_nan()
    } else if truth.is_infinite() {
        got == truth
    } else if got.is_infinite() {
        // Rounding to the type may give infinity.
        truth.abs() + bound >= kind.overflow() && (got > 0.0) == (truth > 0.0)
    } else {
        (got - truth).abs() <= bound
    }
}

/// Compares without testing the comparison.
pub fn compare(got: &Buffer, truth: &[f64], bounds: &[f64]) -> Result<(), String> {
    if got.len() != truth.len() || bounds.len() != truth.len() {
        return Err(format!("{} elements, {} expected, {} bounds", got.len(), truth.len(), bounds.len()));
    }
    if let Some(bound) = bounds.iter().find(|bound| !(**bound >= 0.0 && bound.is_finite())) {
        return Err(format!("a bound of {bound:e}"));
    }
    let wrong: Vec<usize> =
        (0..truth.len()).filter(|&i| !fits(got.kind(), got.value(i), truth[i], bounds[i])).collect();
    let Some(&i) = wrong.first() else { return Ok(()) };
    let (value, truth, bound, all) = (got.value(i), truth[i], bounds[i], got.len());
    Err(format!(
        "{} of {all} are wrong; element {i} is {value:e}, not {truth:e} within {bound:e}",
        wrong.len()
    ))
}

/// Compares, and where all is well makes sure that the same comparison rejects what is nearly so.
pub fn judge(name: &str, got: &Buffer, truth: &[f64], bounds: &[f64]) -> Result<(), Stop> {
    compare(got, truth, bounds).map_err(|message| format!("{name}: {message}"))?;
    bites(got, truth, bounds).map_err(|message| format!("{name}: the judge is blind: {message}").into())
}

/// Places of an output at which near misses are tried, from the first to the last.
const PLACES: usize = 8;

/// That a right output is rejected once any of some elements, or its truth, is changed a little.
fn bites(got: &Buffer, truth: &[f64], bounds: &[f64]) -> Result<(), String> {
    let rejected = |got: &Buffer, truth: &[f64], what: &str, i: usize| match compare(got, truth, bounds) {
        Ok(()) => Err(format!("it accepts {what} at {i}")),
        Err(_) => Ok(()),
    };
    let Some(last) = truth.len().checked_sub(1) else { return Ok(()) };
    for i in (0..PLACES).map(|place| place * last / (PLACES - 1)) {
        let (right, bound) = (truth[i], bounds[i]);
        let mut changed = truth.to_vec();
        let mut with = |t: f64, what: &str| {
            changed[i] = t;
            rejected(got, &changed, what, i)
        };
        if right.is_finite() && got.value(i).is_infinite() {
            // Rounding gave infinity, as it also does for all that is larger.
            with(0.0, "an infinity instead of a number")?;
            with(f64::NAN, "a number instead of NaN")?;
            with(-right, "an infinity of the other sign")?;
            continue;
        }
        if right.is_finite() {
            // 2.5 bounds from a number that is at most one bound away.
            let off = 2.5 * bound;
            with(if right + off > right { right + off } else { right.next_up() }, "a truth that is larger")?;
            with(
                if right - off < right { right - off } else { right.next_down() },
                "a truth that is smaller",
            )?;
            with(f64::NAN, "a number instead of NaN")?;
        } else {
            with(0.0, "a NaN or an infinity instead of a number")?;
        }
        if !right.is_nan() {
            let mut nan = got.clone();
            nan.set_bits(i, got.kind().bits(f32::NAN));
            rejected(&nan, truth, "NaN", i)?;
        }
        if right != f64::NEG_INFINITY {
            with(f64::NEG_INFINITY, "what is not minus infinity instead of it")?;
        }
    }
    rejected(got, &truth[1..], "one element too many", last)
}

/// That the comparison knows right from wrong.
pub fn check() -> Result<(), String> {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let (f32_nan, f32_inf) = (f32::NAN, f32::INFINITY);
    for (kind, got, truth, bound, right) in [
        (Kind::F32, 1.0, 1.0, 0.0, true),
        (Kind::F32, 1.0, 1.25, 0.25, true),
        (Kind::F32, 1.0, 1.26, 0.25, false),
        (Kind::F32, 1.0, -1.0, 0.5, false),
        (Kind::F32, f32_nan, nan, 0.1, true),
        (Kind::F32, f32_nan, 1.0, 1e30, false),
        (Kind::F32, f32_nan, -inf, 1e30, false),
        (Kind::F32, 0.0, nan, 1e30, false),
        (Kind::F32, f32_inf, inf, 0.1, true),
        (Kind::F32, -f32_inf, inf, 0.1, false),
        (Kind::F32, f32_inf, 3e38, 1e37, false),
        (Kind::F32, 3e38, inf, 1e38, false),
        (Kind::F32, -f32_inf, -inf, 0.0, true),
        (Kind::F32, f32::MIN, -inf, 1e38, false),
        (Kind::F32, 0.0, 1e-45, 0.0, false),
        (Kind::F16, f32_inf, 65_530.0, 32.0, true),
        (Kind::F16, -f32_inf, 65_530.0, 32.0, false),
        (Kind::F16, f32_inf, 65_000.0, 32.0, false),
    ] {
        let buffer = Buffer::F32(vec![got]);
        let buffer = if kind == Kind::F16 { Buffer::F16(vec![qkv::f16::from_f32(got)]) } else { buffer };
        let found = compare(&buffer, &[truth], &[bound]);
        if found.is_ok() != right {
            return Err(format!("{kind:?} {got:e} for {truth:e} within {bound:e}: {found:?}"));
        }
    }
    let ones = Buffer::F32(vec![1.0; 3]);
    bites(&ones, &[1.0; 3], &[0.1; 3])?;
    for bounds in [&[0.1, inf, 0.1][..], &[0.1, nan, 0.1], &[0.1, -0.1, 0.1], &[0.1; 2], &[0.1; 4]] {
        if compare(&ones, &[1.0; 3], bounds).is_ok() {
            return Err(format!("it accepts the bounds {bounds:?}"));
        }
    }
    Ok(())
}
