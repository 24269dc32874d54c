//! ONNX's Attention and FlexAttention, and the generated attention cases, as calls of `qkv::Attention`.

use std::rc::Rc;

use crate::case::{Case, Dtype, PROB_MOD, Stop, Tensor};
use crate::common::buffer::{Buffer, Kind};
use crate::common::tiers;
use crate::json::Json;
use crate::judge::{self, judge};
use crate::product::{Mat, product};
use crate::report::Felt;
use crate::setup::{Order, Setup, Table, View};
use qkv::{MaskRule, ScoreAt, Scores};

/// A case with an `opset` is ONNX's, others are generated.
pub fn attention(case: &Case, felt: &mut Felt) -> Result<(), Stop> {
    if case.opset().is_some() { of_onnx(case, felt) } else { generated(case, felt) }
}

/// Attention-23 to 25. `Y` and its companions at the operator's bounds.
fn of_onnx(case: &Case, felt: &mut Felt) -> Result<(), Stop> {
    let q_heads = case.integer("q_num_heads", 0)?;
    let kv_heads = case.integer("kv_num_heads", 0)?;
    let q = view(case.needed(0, "Q")?, q_heads)?;
    let new = [view(case.needed(1, "K")?, kv_heads)?, view(case.needed(2, "V")?, kv_heads)?];
    let past = [case.input(4)?, case.input(5)?];
    let [past_k, past_v] = past.map(|past| past.map(|past| view(past, 0)).transpose());
    let (past_k, past_v) = (past_k?, past_v?);
    let present = [new[0].behind(past_k.as_ref())?, new[1].behind(past_v.as_ref())?];
    // Without a past, K and V are read where they lie.
    let past_len = past_k.as_ref().map(|past| past.len);
    let [k, v] = if past_len.is_some() { present.clone() } else { new };

    let kv_len = k.len;
    let mut setup = Setup::new(q, k, v);
    setup.scale = case.number("scale")?.map(|scale| scale as f32);
    setup.softcap = softcap(case)?;
    setup.causal = case.flag("is_causal")?;
    setup.window = window(case)?;
    setup.kv_lens = case.input(6)?.map(|lens| lens.lengths()).transpose()?;
    // With lengths of the sequences each has an offset of its own, which is the crate's default.
    setup.offset = match (past_len, &setup.kv_lens) {
        (None, Some(_)) => None,
        (past_len, None) => Some(past_len.unwrap_or(0) as isize),
        (Some(_), Some(_)) => return Err("past and nonpad_kv_seqlen at once are not in ONNX".into()),
    };
    add_mask(&mut setup, case, kv_len)?;
    if !matches!(case.integer("softmax_precision", 1)?, 1 | 10 | 11 | 16) {
        return Err("an unknown softmax_precision".into());
    }
    let which = match case.integer("qk_matmul_output_mode", 0)? {
        0 => Scores::Raw,
        1 => Scores::Capped,
        2 => Scores::Masked,
        3 => Scores::Weights,
        mode => return Err(format!("an unknown qk_matmul_output_mode {mode}").into()),
    };

    for (slot, present) in [1, 2].into_iter().zip(&present) {
        if let Some(truth) = case.output(slot)? {
            let shape = [present.batch, present.n_heads, present.len, present.head_dim];
            expect_shape(&truth.shape, &shape)?;
            judge(&truth.name, &present.buffer, &truth.values, &vec![0.0; truth.values.len()])?;
        }
    }
    outputs(case, &setup, felt)?;
    let Some(truth) = case.output(3)? else { return case.finish() };
    expect_shape(&truth.shape, &[setup.q.batch, setup.q.n_heads, setup.q.len, kv_len])?;
    let kind = truth.dtype.kind()?;
    if matches!(which, Scores::Raw | Scores::Capped) {
        // ONNX multiplies with what lies behind a sequence's end too.
        setup.kv_lens = None;
    }
    for tier in tiers() {
        let got = setup.scores(tier, which, kind)?;
        judge(&on(&truth.name, tier), &got, &truth.values, &judge::of_operator(kind, &truth))?;
    }
    case.finish()
}

/// ai.onnx.preview's FlexAttention-1.
pub fn flex(case: &Case, felt: &mut Felt) -> Result<(), Stop> {
    let [q, k, v] = [case.needed(0, "Q")?, case.needed(1, "K")?, case.needed(2, "V")?].map(|x| view(x, 0));
    let mut setup = Setup::new(q?, k?, v?);
    setup.scale = case.number("scale")?.map(|scale| scale as f32);
    if !matches!(case.integer("softmax_precision", 1)?, 1 | 10 | 11 | 16) {
        return Err("an unknown softmax_precision".into());
    }
    if let Some(change) = case.attribute("score_mod") {
        match modification(change)? {
            ("softcap", Some(cap)) => setup.softcap = Some(cap),
            ("add", Some(x)) => setup.score_rule = Some(Rc::new(move |s: f32, _: ScoreAt| s + x)),
            ("mul" | "scale", Some(x)) => setup.score_rule = Some(Rc::new(move |s: f32, _: ScoreAt| s * x)),
            ("add_q_minus_k", None) => {
                setup.score_rule = Some(Rc::new(|s: f32, at: ScoreAt| s + (at.query - at.key) as f32));
            }
            (kind, None) if ["causal", "mask", "where"].iter().any(|part| kind.contains(part)) => {
                let seen = |s: f32, at: ScoreAt| if at.query >= at.key { s } else { f32::NEG_INFINITY };
                setup.score_rule = Some(Rc::new(seen));
            }
            other => return Err(format!("an unknown score_mod {other:?}").into()),
        }
    }
    let Some(change) = case.attribute("prob_mod") else {
        outputs(case, &setup, felt)?;
        return case.finish();
    };
    // The weights, the function, and a product with V.
    let (kind, Some(factor)) = modification(change)? else { return Err(PROB_MOD) };
    if !["mul", "scal"].iter().any(|part| kind.contains(part)) {
        return Err(PROB_MOD);
    }
    let truth = case.wanted(0)?;
    let (kind, q, k, v) = (truth.dtype.kind()?, &setup.q, &setup.k, &setup.v);
    expect_shape(&truth.shape, &[q.batch, q.n_heads, q.len, v.head_dim])?;
    for tier in tiers() {
        let mut weights = setup.scores(tier, Scores::Weights, Kind::F32)?;
        for i in 0..weights.len() {
            weights.set_bits(i, (weights.value(i) * factor).to_bits());
        }
        let mut out = Buffer::new(kind, truth.values.len());
        let group = q.n_heads / k.n_heads;
        for (i, (b, h)) in (0..q.batch).flat_map(|b| (0..q.n_heads).map(move |h| (b, h))).enumerate() {
            let a = Mat::plain(&weights, i * q.len * k.len, q.len, k.len);
            let from = (b * v.n_heads + h / group) * v.len * v.head_dim;
            let b = Mat::plain(&v.buffer, from, v.len, v.head_dim);
            product(tier, (1.0, 0.0, None), a, b, &mut out, i * q.len * v.head_dim, v.head_dim)?;
        }
        judge(&on(&truth.name, tier), &out, &truth.values, &judge::of_operator(kind, &truth))?;
    }
    case.finish()
}

/// Kind and value of a `score_mod` or `prob_mod`.
fn modification(json: &Json) -> Result<(&str, Option<f32>), Stop> {
    let Json::Object(members) = json else { return Err("a score_mod or prob_mod that is no object".into()) };
    if let Some((name, _)) = members.iter().find(|(name, _)| name != "kind" && name != "value") {
        return Err(format!("an unknown {name} of a score_mod or prob_mod").into());
    }
    let kind = json.get("kind").and_then(Json::text).ok_or("a score_mod or prob_mod without kind")?;
    Ok((kind, json.get("value").and_then(Json::number).map(|x| x as f32)))
}

/// Runs the call on every tier and judges output 0 at the operator's bounds.
fn outputs(case: &Case, setup: &Setup, felt: &mut Felt) -> Result<(), Stop> {
    let truth = case.wanted(0)?;
    let (q, kind) = (&setup.q, truth.dtype.kind()?);
    match q.order {
        Order::HeadMajor => expect_shape(&truth.shape, &[q.batch, q.n_heads, q.len, setup.v.head_dim])?,
        Order::TokenMajor => expect_shape(&truth.shape, &[q.batch, q.len, q.n_heads * setup.v.head_dim])?,
    }
    let bounds = judge::of_operator(kind, &truth);
    for tier in tiers() {
        let (got, _) = setup.run(tier, kind)?;
        judge(&on(&truth.name, tier), &got, &truth.values, &bounds)?;
    }
    felt.note(setup, |weaker| {
        weaker
            .run(qkv::Tier::detect(), kind)
            .is_ok_and(|(got, _)| judge::compare(&got, &truth.values, &bounds).is_ok())
    });
    Ok(())
}

/// The attention cases of the generated set: output and log-sum-exp, into `f32` and into Q's type.
fn generated(case: &Case, felt: &mut Felt) -> Result<(), Stop> {
    let [q, k, v] = [case.needed(0, "Q")?, case.needed(1, "K")?, case.needed(2, "V")?].map(|x| view(x, 0));
    let mut setup = Setup::new(q?, k?, v?);
    let (q_len, kv_len) = (setup.q.len, setup.k.len);
    setup.scale = case.number("scale")?.map(|scale| scale as f32);
    setup.softcap = softcap(case)?;
    setup.kv_lens = case.input(6)?.map(|lens| lens.lengths()).transpose()?;
    setup.alibi = case.input(4)?.map(|slopes| slopes.floats()).transpose()?;
    add_mask(&mut setup, case, kv_len)?;

    // Prose.
    case.text("note")?;
    // What each option counts from; absent is the bottom right of each sequence.
    let corner = kv_len as isize - q_len as isize;
    let bottom_right = |offset| if setup.kv_lens.is_none() { Some(offset) } else { None };
    let named = case.whole("causal_offset")?;
    let causal = match case.text("causal")? {
        None | Some("none") => None,
        Some("top_left") => Some(Some(named.unwrap_or(0))),
        Some("bottom_right") => Some(named.or(bottom_right(corner))),
        Some(other) => return Err(format!("an unknown causal {other}").into()),
    };
    let named = case.whole("window_offset")?;
    let window = window(case)?.zip(Some(named.or(bottom_right(corner))));
    let alibi = setup.alibi.is_some().then_some(Some(corner));
    // The crate has one offset. What counts from elsewhere is a rule.
    let own = alibi.or(causal).or(window.map(|(_, offset)| offset));
    setup.offset = own.flatten();
    let seen = |offset, window| Windowed { offset, window };
    let mut rules = Vec::new();
    match causal {
        Some(offset) if Some(offset) == own => setup.causal = true,
        Some(offset) => rules.push(seen(offset, (usize::MAX, 0))),
        None => {}
    }
    match window {
        Some((window, offset)) if Some(offset) == own => setup.window = Some(window),
        Some((window, offset)) => rules.push(seen(offset, window)),
        None => {}
    }
    setup.mask_rule = mask_rule(&rules)?;
    judge_generated(case, &setup, felt)?;
    // Causal and the window once more, all as rules.
    let options = [setup.causal.then_some((usize::MAX, 0)), setup.window];
    rules.extend(options.into_iter().flatten().map(|window| seen(setup.offset, window)));
    if let (Some(_), Ok(rule)) = (rules.first(), mask_rule(&rules)) {
        let ruled = Setup { causal: false, window: None, mask_rule: rule, ..setup.clone() };
        judge_generated(case, &ruled, felt)?;
    }
    // The linear biases once more, as a table.
    if let Some(table) = case.input(5)? {
        let table = Table { sizes: sizes(&table.shape)?, values: table.floats()? };
        let rule = move |s: f32, at: ScoreAt| s + entry(&table, at).unwrap_or(f32::NAN);
        setup.score_rule = Some(Rc::new(rule));
        setup.alibi = None;
        judge_generated(case, &setup, felt)?;
    }
    case.finish()
}

fn judge_generated(case: &Case, setup: &Setup, felt: &mut Felt) -> Result<(), Stop> {
    let (truth, lse) = (case.wanted(0)?, case.output(1)?);
    let q = &setup.q;
    expect_shape(&truth.shape, &[q.batch, q.n_heads, q.len, setup.v.head_dim])?;
    // Without a finite number in the truth there is no largest one, and no error.
    let any = truth.values.iter().any(|t| t.is_finite());
    let figure = |name| if any { case.figure(name) } else { Ok(0.0) };
    let error = 2.0 * figure("naive_f32_max_abs_err")? + 2.0_f64.powi(-22) * figure("max_abs")? + 1.5e-45;
    for kind in [Kind::F32, q.buffer.kind()] {
        let bounds = judge::stored(kind, &truth.values, |_| error);
        for tier in tiers() {
            let (got, got_lse) = setup.run(tier, kind)?;
            judge(&on(&truth.name, tier), &got, &truth.values, &bounds)?;
            if let Some(lse) = &lse {
                expect_shape(&lse.shape, &[q.batch, q.n_heads, q.len])?;
                judge(&on(&lse.name, tier), &Buffer::F32(got_lse), &lse.values, &judge::of_lse(&lse.values))?;
            }
        }
        felt.note(setup, |weaker| {
            weaker
                .run(qkv::Tier::detect(), kind)
                .is_ok_and(|(got, _)| judge::compare(&got, &truth.values, &bounds).is_ok())
        });
    }
    Ok(())
}

/// Keys round each query's own, which is `query + offset`; without one it is not the same for all sequences.
#[derive(Clone, Copy)]
struct Windowed {
    offset: Option<isize>,
    window: (usize, usize),
}

/// All of the windows as a rule.
fn mask_rule(windows: &[Windowed]) -> Result<Option<Rc<dyn MaskRule>>, Stop> {
    let known = windows.iter().map(|Windowed { offset, window }| Some(((*offset)?, *window)));
    let known: Vec<_> =
        known.collect::<Option<_>>().ok_or("offsets that differ from each other and between sequences")?;
    if known.is_empty() {
        return Ok(None);
    }
    Ok(Some(Rc::new(move |query: usize, key: usize| {
        known.iter().all(|(offset, (before, after))| {
            let ahead = key as i128 - (query as i128 + *offset as i128);
            -ahead <= *before as i128 && ahead <= *after as i128
        })
    })))
}

fn entry(table: &Table<Vec<f32>>, at: ScoreAt) -> Option<f32> {
    let places = [at.batch, at.head, at.query, at.key];
    let mut index = 0;
    for (size, place) in table.sizes.into_iter().zip(places) {
        let place = if size == 1 { 0 } else { usize::try_from(place).ok()? };
        index = index * size + if place < size { place } else { return None };
    }
    table.values.get(index).copied()
}

/// 4 dimensions: `[batch, heads, len, head_dim]`; 3 with the number of heads: `[batch, len, heads * head_dim]`.
fn view(x: Tensor, n_heads: isize) -> Result<View, Stop> {
    let buffer = x.buffer()?;
    let n_heads = usize::try_from(n_heads).map_err(|_| "a negative number of heads")?;
    match x.shape[..] {
        [batch, heads, len, head_dim] if n_heads == 0 || n_heads == heads => {
            Ok(View { buffer, order: Order::HeadMajor, batch, len, n_heads: heads, head_dim })
        }
        [batch, len, width] if n_heads > 0 && width % n_heads == 0 => {
            Ok(View { buffer, order: Order::TokenMajor, batch, len, n_heads, head_dim: width / n_heads })
        }
        _ => Err(format!("heads of shape {:?} with {n_heads} heads", x.shape).into()),
    }
}

/// `attn_mask`: a mask of bools, or a bias. Where it has fewer keys the rest is not seen.
fn add_mask(setup: &mut Setup, case: &Case, kv_len: usize) -> Result<(), Stop> {
    let Some(mask) = case.input(3)? else { return Ok(()) };
    let [batch, heads, queries, keys] = sizes(&mask.shape)?;
    if keys > kv_len {
        return Err(format!("a mask for {keys} keys where there are {kv_len}").into());
    }
    let sizes = [batch, heads, queries, kv_len];
    // Where the mask has each element, or nothing.
    let elements = (0..batch * heads * queries).flat_map(|row| (0..kv_len).map(move |t| (row, t)));
    let places: Vec<_> = elements.map(|(row, t)| (t < keys).then_some(row * keys + t)).collect();
    if mask.dtype == Dtype::Bool {
        let bools = mask.bools()?;
        let values = places.into_iter().map(|place| place.is_some_and(|i| bools[i])).collect();
        setup.mask = Some(Table { values, sizes });
    } else {
        let given = if mask.dtype.kind().is_ok() { mask.buffer()? } else { Buffer::F32(mask.floats()?) };
        let mut values = Buffer::new(given.kind(), places.len());
        for (to, place) in places.into_iter().enumerate() {
            let unseen = given.kind().bits(f32::NEG_INFINITY);
            values.set_bits(to, place.map_or(unseen, |i| given.bits(i)));
        }
        setup.bias = Some(Table { values, sizes });
    }
    Ok(())
}

/// A shape of up to 4 dimensions, aligned to the right.
fn sizes(shape: &[usize]) -> Result<[usize; 4], Stop> {
    let mut sizes = [1; 4];
    let missing = 4_usize.checked_sub(shape.len()).ok_or("a mask of more than 4 dimensions")?;
    sizes[missing..].copy_from_slice(shape);
    Ok(sizes)
}

/// 0 is none.
fn softcap(case: &Case) -> Result<Option<f32>, Stop> {
    match case.float("softcap", 0.0)? {
        0.0 => Ok(None),
        cap if cap > 0.0 => Ok(Some(cap)),
        cap => Err(format!("softcap {cap}").into()),
    }
}

/// Keys on each side; -1 is all of them.
fn window(case: &Case) -> Result<Option<(usize, usize)>, Stop> {
    let side = |name| match case.integer(name, -1)? {
        -1 => Ok(None),
        size => usize::try_from(size).map(Some).map_err(|_| Stop::from(format!("{name} is {size}"))),
    };
    Ok(match (side("left_window_size")?, side("right_window_size")?) {
        (None, None) => None,
        (left, right) => Some((left.unwrap_or(usize::MAX), right.unwrap_or(usize::MAX))),
    })
}

pub fn expect_shape(expected: &[usize], got: &[usize]) -> Result<(), Stop> {
    if got == expected { Ok(()) } else { Err(format!("an output of shape {got:?}, not {expected:?}").into()) }
}

/// An output and the tier that made it.
pub fn on(name: &str, tier: qkv::Tier) -> String {
    format!("{name} on {}", tier.name())
}
