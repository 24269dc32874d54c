//! `cargo run --release --example database`: attention as a query to a database.
//!
//! ```text
//! database     attention                 here
//! record       token                     one hotel of 4096
//! index        key                       32 numbers, of length 1
//! payload      value                     price, rating, minutes to the centre
//! request      query                     a blurred copy of one hotel's key
//! answer       softmax(scale Q Kᵀ) V     a blend of payloads; the nearest key weighs most
//! ```
//!
//! An exact search returns one record. Attention returns a blend, and its scale says how strict it is:
//! at 0 every record counts the same, and as it grows the blend tends to the exact answer. The hotels of
//! a district have similar keys, so in between it answers for the neighbourhood.

#[path = "lookup/rng.rs"]
mod rng;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len};

use rng::Rng;

const SEED: u64 = 7;
const RECORDS: usize = 4096;
const DISTRICTS: usize = 16;
const KEY_DIM: usize = 32;
/// How far a hotel's key strays from its district's, and the query from the hotel's: the largest step in
/// each of the 32 directions, where a key's own numbers are around 0.18.
const STRAY: f32 = 0.12;
const BLUR: f32 = 0.04;

/// What a record holds. The last column is 1 in the record looked for and 0 elsewhere, so its blend is
/// the weight of that record.
const PAYLOAD_DIM: usize = 4;
type Payload = [f32; PAYLOAD_DIM];

const SCALES: [f32; 7] = [0.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0];
const TOLERANCE: f32 = 1e-3;

fn main() -> ExitCode {
    match run(&mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough, as `head` has.
        Err(error) if error.downcast_ref().is_some_and(is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

struct Database {
    keys: Vec<[f32; KEY_DIM]>,
    payloads: Vec<Payload>,
}

fn run(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let mut rng = Rng::new(SEED);
    let mut database = hotels(&mut rng);
    let wanted = rng.below(RECORDS);
    let query = normalised(near(&mut rng, &database.keys[wanted], BLUR));
    let nearest = exact_nearest(&query, &database.keys);
    database.payloads[nearest][PAYLOAD_DIM - 1] = 1.0;
    let exact = database.payloads[nearest];
    let of_all = mean(database.payloads.iter());
    let of_district = mean(database.payloads.iter().skip(nearest % DISTRICTS).step_by(DISTRICTS));

    writeln!(
        out,
        "{RECORDS} hotels in {DISTRICTS} districts. The query is near the key of hotel {wanted}.\n"
    )?;
    writeln!(out, "{:22}  {:>9}  {:>6}  {:>7}  {:>13}", "", "", "", "", "weight of the")?;
    writeln!(out, "{:22}  {:>9}  {:>6}  {:>7}  {:>13}", "", "price", "rating", "minutes", "nearest hotel")?;
    let mut blends = Vec::new();
    for scale in SCALES {
        let blend = look_up(&query, &database, scale)?;
        print_row(out, &format!("attention, scale {scale}"), &blend)?;
        blends.push(blend);
    }
    writeln!(out)?;
    print_row(out, "mean of all hotels", &of_all)?;
    print_row(out, "mean of the district", &of_district)?;
    print_row(out, &format!("exact nearest: {nearest}"), &exact)?;
    writeln!(out)?;

    let weight = |blend: &Payload| blend[PAYLOAD_DIM - 1];
    let (first, last) = (blends[0], blends[SCALES.len() - 1]);
    check(out, nearest == wanted, "the exact nearest record is the one that was blurred")?;
    check(out, differ(&first, &of_all) < TOLERANCE, "at scale 0 the blend is the mean of all records")?;
    check(out, blends.is_sorted_by_key(weight), "the nearest record's weight grows with the scale")?;
    check(out, differ(&last, &exact) < TOLERANCE, "at the largest scale the blend is the exact record")
}

/// `softmax(scale Q Kᵀ) V` for the one row of Q.
fn look_up(query: &[f32; KEY_DIM], database: &Database, scale: f32) -> Result<Payload, qkv::Error> {
    let mut blend = [0.0; PAYLOAD_DIM];
    let mut scratch = vec![0.0; attention_scratch_len(1, RECORDS, KEY_DIM, PAYLOAD_DIM)];
    let q = HeadsRef::token_major(query, 1, 1, KEY_DIM)?;
    let k = HeadsRef::token_major(database.keys.as_flattened(), RECORDS, 1, KEY_DIM)?;
    let v = HeadsRef::token_major(database.payloads.as_flattened(), RECORDS, 1, PAYLOAD_DIM)?;
    let out = HeadsMut::token_major(&mut blend, 1, 1, PAYLOAD_DIM)?;
    Attention::new().scale(scale).run(q, k, v, out, &mut scratch)?;
    Ok(blend)
}

/// What an index without attention would do: the record whose key has the largest product with the query.
fn exact_nearest(query: &[f32; KEY_DIM], keys: &[[f32; KEY_DIM]]) -> usize {
    let product = |key: &[f32; KEY_DIM]| -> f64 {
        query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum()
    };
    let nearer = |best: usize, i: usize| if product(&keys[i]) > product(&keys[best]) { i } else { best };
    (0..keys.len()).fold(0, nearer)
}

/// Hotel `i` lies in district `i % DISTRICTS`, which decides roughly its key, price and way to the centre.
fn hotels(rng: &mut Rng) -> Database {
    struct District {
        key: [f32; KEY_DIM],
        price: usize,
        minutes: usize,
    }
    let districts: Vec<District> = (0..DISTRICTS)
        .map(|_| District {
            key: normalised(near(rng, &[0.0; KEY_DIM], 1.0)),
            price: 60 + rng.below(200),
            minutes: 5 + rng.below(40),
        })
        .collect();
    let mut database = Database { keys: Vec::new(), payloads: Vec::new() };
    for district in districts.iter().cycle().take(RECORDS) {
        let price = district.price + rng.below(60);
        let stars = 20 + rng.below(31);
        let minutes = district.minutes + rng.below(10);
        database.keys.push(normalised(near(rng, &district.key, STRAY)));
        database.payloads.push([price as f32, stars as f32 / 10.0, minutes as f32, 0.0]);
    }
    database
}

/// `key` with a step of at most `step` in each direction.
fn near(rng: &mut Rng, key: &[f32; KEY_DIM], step: f32) -> [f32; KEY_DIM] {
    // 24 bits, which an f32 holds exactly.
    const STEPS: usize = 1 << 24;
    key.map(|x| x + step * (2.0 * rng.below(STEPS) as f32 / STEPS as f32 - 1.0))
}

/// Keys have length 1, so that the largest product belongs to the nearest one.
fn normalised(key: [f32; KEY_DIM]) -> [f32; KEY_DIM] {
    let length = key.iter().map(|x| x * x).sum::<f32>().sqrt();
    key.map(|x| x / length)
}

fn mean<'a>(payloads: impl Iterator<Item = &'a Payload> + Clone) -> Payload {
    let count = payloads.clone().count() as f64;
    std::array::from_fn(|d| {
        (payloads.clone().map(|payload| f64::from(payload[d])).sum::<f64>() / count) as f32
    })
}

/// The largest difference in any column, relative to the exact number where that is above 1.
fn differ(payload: &Payload, exact: &Payload) -> f32 {
    let columns = payload.iter().zip(exact);
    columns.fold(0.0, |largest, (a, b)| largest.max((a - b).abs() / b.abs().max(1.0)))
}

fn print_row(out: &mut impl Write, what: &str, payload: &Payload) -> io::Result<()> {
    let [price, rating, minutes, weight] = payload;
    writeln!(out, "{what:22}  {price:9.3}  {rating:6.3}  {minutes:7.3}  {:12.4}%", 100.0 * weight)
}

fn check(out: &mut impl Write, holds: bool, claim: &str) -> Result<(), Box<dyn Error>> {
    if holds { Ok(writeln!(out, "holds: {claim}")?) } else { Err(format!("does not hold: {claim}").into()) }
}
