//! Einsum of one or two operands, as products of matrices: every index is one of four kinds.
//!
//! ```text
//! out[batch, row, column] = Σ_inner  A[batch, row, inner] B[batch, inner, column]
//! ```
//! An index of the output is of the batch, a row or a column by where it stands in the operands, every
//! other one is inner. An operand without an index is the same for all its values.

use crate::attention::{expect_shape, on};
use crate::case::{Case, OPERANDS, Stop};
use crate::common::buffer::Buffer;
use crate::common::tiers;
use crate::judge::{self, judge};
use crate::product::{Mat, product};

/// An index and its size.
type Index = (char, usize);

pub fn einsum(case: &Case) -> Result<(), Stop> {
    let equation = case.text("equation")?.ok_or("no equation")?;
    let inputs = case.inputs()?;
    let truth = case.wanted(0)?;
    let kind = truth.dtype.kind()?;
    let buffers = inputs.iter().map(|input| input.buffer()).collect::<Result<Vec<_>, _>>()?;
    if inputs.len() > 2 {
        return Err(OPERANDS);
    }
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| &input.shape[..]).collect();
    let (operands, out) = parse(equation, &shapes)?;

    // Without a second operand the first is multiplied by 1.
    let one = (Buffer::F32(vec![1.0]), Vec::new());
    let mut given = buffers.into_iter().zip(operands).chain([one]);
    let (Some((a, a_names)), Some((b, b_names))) = (given.next(), given.next()) else {
        return Err("no operand".into());
    };
    let mut all: Vec<Index> = Vec::new();
    for &(name, size) in a_names.iter().chain(&b_names) {
        match all.iter_mut().find(|(known, _)| *known == name) {
            None => all.push((name, size)),
            Some((_, known)) if *known == size || size == 1 => {}
            Some((_, known)) if *known == 1 => *known = size,
            Some((_, known)) => return Err(format!("{name} has the sizes {known} and {size}").into()),
        }
    }
    let has = |names: &[Index], name| names.iter().any(|(other, _)| *other == name);
    let sized = |name: &char| all.iter().find(|(known, _)| known == name).copied();
    let out =
        out.iter().map(|name| sized(name).ok_or_else(|| Stop::from(format!("{name} is new in the output"))));
    let out: Vec<Index> = out.collect::<Result<_, _>>()?;
    expect_shape(&truth.shape, &out.iter().map(|(_, size)| *size).collect::<Vec<_>>())?;
    let of_out = |in_a, in_b| {
        let here = |&&(name, _): &&Index| has(&a_names, name) == in_a && has(&b_names, name) == in_b;
        out.iter().filter(here).copied().collect::<Vec<_>>()
    };
    let (batch, rows, cols) = (of_out(true, true), of_out(true, false), of_out(false, true));
    let inner: Vec<Index> = all.iter().filter(|(name, _)| !has(&out, *name)).copied().collect();

    let count = |indices: &[Index]| indices.iter().map(|(_, size)| size).product::<usize>();
    let (m, k, n) = (count(&rows), count(&inner), count(&cols));
    let a = gather(&a, &a_names, &[&batch, &rows, &inner].map(|part| &part[..]).concat());
    let b = gather(&b, &b_names, &[&batch, &inner, &cols].map(|part| &part[..]).concat());
    let order = [&batch[..], &rows, &cols].concat();
    let bounds = judge::of_operator(kind, &truth);
    for tier in tiers() {
        let mut c = Buffer::new(kind, truth.values.len());
        for i in 0..count(&batch) {
            let (a, b) = (Mat::plain(&a, i * m * k, m, k), Mat::plain(&b, i * k * n, k, n));
            product(tier, (1.0, 0.0, None), a, b, &mut c, i * m * n, n)?;
        }
        let got = gather(&c, &order, &out);
        judge(&on(&truth.name, tier), &got, &truth.values, &bounds)?;
    }
    case.finish()
}

/// The elements of a tensor with indices `names` in the order of `order`. An index that occurs twice in
/// `names` walks along the diagonal; one that does not occur, or has the size 1 there, repeats.
fn gather(from: &Buffer, names: &[Index], order: &[Index]) -> Buffer {
    let mut strides = vec![0; order.len()];
    let mut stride = 1;
    for &(name, size) in names.iter().rev() {
        let at =
            order.iter().position(|(other, _)| *other == name).expect("every index of an operand is used");
        strides[at] += if size == 1 { 0 } else { stride };
        stride *= size;
    }
    let mut to = Buffer::new(from.kind(), order.iter().map(|(_, size)| size).product());
    for i in 0..to.len() {
        let (mut rest, mut place) = (i, 0);
        for ((_, size), stride) in order.iter().zip(&strides).rev() {
            place += rest % size * stride;
            rest /= size;
        }
        to.set_bits(i, from.bits(place));
    }
    to
}

/// The indices of each operand, and of the output. Dots stand for dimensions without a name, counted from
/// the right; they are given the names `0`, `1`, ...
fn parse(equation: &str, shapes: &[&[usize]]) -> Result<(Vec<Vec<Index>>, Vec<char>), Stop> {
    let equation: String = equation.chars().filter(|c| *c != ' ').collect();
    let wrong = || Stop::from(format!("equation {equation:?}"));
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&equation[..], None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != shapes.len() {
        return Err(wrong());
    }
    let digits = |n: usize| (0..n).rev().filter_map(|i| char::from_digit(i as u32, 10)).collect::<String>();
    let letters = |term: &str| term.chars().all(|c| c.is_ascii_alphabetic());
    let (mut operands, mut dots) = (Vec::new(), 0);
    for (term, shape) in terms.iter().zip(shapes) {
        let named = term.replacen("...", "", 1);
        let more = shape
            .len()
            .checked_sub(named.len())
            .filter(|n| *n == 0 || term.contains("..."))
            .ok_or_else(wrong)?;
        if !letters(&named) || more > 9 {
            return Err(wrong());
        }
        dots = dots.max(more);
        let names = term.replacen("...", &digits(more), 1);
        operands.push(names.chars().zip(shape.iter().copied()).collect::<Vec<Index>>());
    }
    let out = match right {
        Some(right) if letters(&right.replacen("...", "", 1)) => right.replacen("...", &digits(dots), 1),
        Some(_) => return Err(wrong()),
        None => {
            // Those that occur once, in alphabetical order.
            let times = |c: char| operands.iter().flatten().filter(|(name, _)| *name == c).count();
            let mut once: Vec<char> =
                left.chars().filter(|c| c.is_ascii_alphabetic() && times(*c) == 1).collect();
            once.sort_unstable();
            digits(dots).chars().chain(once).collect()
        }
    };
    let out: Vec<char> = out.chars().collect();
    if (1..out.len()).any(|i| out[..i].contains(&out[i])) { Err(wrong()) } else { Ok((operands, out)) }
}
