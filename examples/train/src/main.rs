//! Trains the tiny transformer of the `lookup` example and writes its weights next to it.
//!
//! ```text
//! cd examples/train && cargo run --release
//! ```
//!
//! The model reads sentences such as "the dog chased the ball because it was excited" and predicts,
//! at "it", the noun that it stands for. That is the whole objective: nothing tells the attention
//! where to look. Whether it looks at the noun is measured afterwards, on sentences whose animal,
//! object and adjective never came together in training.
//!
//! Every seed tried learns to name the noun, but not all by a lookup: some look up both nouns, say one
//! with each head, or gather them in the first layer, and let the adjective's kind favour one of them in
//! the scores. Of the seeds 13 to 24, eight look at the right noun in at least 95 % of 1000 sentences.
//! [`SEED`] does it in all of them and with both heads, and relies on it: exchanging the two nouns' values
//! exchanges the answers, in all of them as well. Its keys carry the adjective: in the first layer the
//! nouns read it, in the last the one that it fits advertises itself, and "it" asks for that one.
//!
//! The same seed gives the same bytes on the same processor: there is one thread and no other source
//! of randomness. A processor with other vector instructions rounds differently.
//!
//! Weight file, little-endian: six `u32` (words, longest sentence, d_model, layers, heads, head_dim),
//! then `f32`, row-major: E [words][d_model], P [longest sentence][d_model], and for every layer W_Q,
//! W_K, W_V [d_model][heads * head_dim] and W_O [heads * head_dim][d_model].

mod data;
mod model;
#[path = "../../lookup/rng.rs"]
mod rng;
#[path = "../../lookup/sentences.rs"]
mod sentences;
#[path = "../../lookup/words.rs"]
mod words;

use std::path::Path;
use std::time::Instant;

use candle_core::{D, Result};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, loss::cross_entropy};

use data::{Batch, vocabulary};
use model::{Config, Model};
use rng::Rng;
use sentences::Sentence;

const SEED: u64 = 18;
const STEPS: usize = 3000;
const BATCH: usize = 64;
const PEAK_LEARNING_RATE: f64 = 3e-3;
const WEIGHT_DECAY: f64 = 0.5;
/// The learning rate rises for the first one in this many steps.
const WARM_UP_ONE_IN: f64 = 20.0;

const SCORE_SEED: u64 = 99;
const SCORE_BATCHES: usize = 20;
const SCORE_BATCH: usize = 100;

fn main() -> Result<()> {
    // SAFETY: the program's first statement, so no other thread can be reading the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };

    let start = Instant::now();
    let config = Config {
        vocab: vocabulary().count(),
        max_len: 11,
        d_model: 24,
        n_layers: 2,
        n_heads: 2,
        head_dim: 8,
    };
    let mut rng = Rng::new(SEED);
    let model = Model::new(config, &mut rng)?;
    let n_params: usize = model.vars().iter().map(|var| var.elem_count()).sum();
    println!("{n_params} parameters");

    train(&model, &mut rng)?;
    println!("trained in {:.1} s", start.elapsed().as_secs_f64());
    score(&model)?;
    write(&model)
}

fn train(model: &Model, rng: &mut Rng) -> Result<()> {
    let params = ParamsAdamW { lr: 0.0, weight_decay: WEIGHT_DECAY, ..Default::default() };
    let mut optimizer = AdamW::new(model.vars(), params)?;
    for step in 0..STEPS {
        optimizer.set_learning_rate(learning_rate(step));
        let batch = Batch::random(rng, BATCH, false)?;
        let output = model.forward(&batch.tokens, batch.it)?;
        let loss = cross_entropy(&output.scores, &batch.nouns)?;
        optimizer.backward_step(&loss)?;
        if step % 500 == 0 {
            println!("step {step:4}: loss {:.4}", loss.to_scalar::<f32>()?);
        }
    }
    Ok(())
}

/// A linear rise, then half a cosine down to zero.
fn learning_rate(step: usize) -> f64 {
    let done = step as f64 / STEPS as f64;
    let rise = (done * WARM_UP_ONE_IN).min(1.0);
    PEAK_LEARNING_RATE * rise * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

/// Prints how the model does on held-out sentences: the loss, how often it names the right noun, and
/// how often the last layer's weight on the right noun is larger than the one on the other.
fn score(model: &Model) -> Result<()> {
    let mut rng = Rng::new(SCORE_SEED);
    let mut loss = 0.0;
    let mut named = 0;
    let mut mean = Routing::default();
    let mut heads = vec![Routing::default(); model.config.n_heads];
    for _ in 0..SCORE_BATCHES {
        let batch = Batch::random(&mut rng, SCORE_BATCH, true)?;
        let output = model.forward(&batch.tokens, batch.it)?;
        loss += cross_entropy(&output.scores, &batch.nouns)?.to_scalar::<f32>()?;
        let right = output.scores.argmax(D::Minus1)?.eq(&batch.nouns)?;
        named += right.to_vec1::<u8>()?.into_iter().map(usize::from).sum::<usize>();
        let by_head = output.weights.to_vec3::<f32>()?;
        let of_mean = output.weights.mean(1)?.to_vec2::<f32>()?;
        for ((sentence, by_head), of_mean) in batch.sentences.iter().zip(by_head).zip(of_mean) {
            mean.count(sentence, &of_mean);
            for (head, weights) in heads.iter_mut().zip(&by_head) {
                head.count(sentence, weights);
            }
        }
    }
    let total = SCORE_BATCHES * SCORE_BATCH;
    println!("on {total} held-out sentences: loss {:.4}, {named} named", loss / SCORE_BATCHES as f32);
    println!("last layer, mean of the heads: {}", mean.report(total));
    for (h, head) in heads.iter().enumerate() {
        println!("last layer, head {}: {}", h + 1, head.report(total));
    }
    Ok(())
}

/// Where "it" looked, over many sentences.
#[derive(Clone, Default)]
struct Routing {
    /// Sentences in which the right noun weighed more than the other.
    right: usize,
    /// The sum of the weights on the right noun.
    weight: f32,
}

impl Routing {
    fn count(&mut self, sentence: &Sentence, weights: &[f32]) {
        self.right += usize::from(weights[sentence.right] > weights[sentence.wrong]);
        self.weight += weights[sentence.right];
    }

    fn report(&self, total: usize) -> String {
        let Self { right, weight } = self;
        format!("{right} look at the right noun, with a weight of {:.3} on average", weight / total as f32)
    }
}

/// Writes `model.bin` and `vocab.txt` into the example's folder.
fn write(model: &Model) -> Result<()> {
    let Config { vocab, max_len, d_model, n_layers, n_heads, head_dim } = model.config;
    let header = [vocab, max_len, d_model, n_layers, n_heads, head_dim];
    let mut bytes: Vec<u8> = header.iter().flat_map(|&size| (size as u32).to_le_bytes()).collect();
    for var in model.vars() {
        for number in var.flatten_all()?.to_vec1::<f32>()? {
            bytes.extend(number.to_le_bytes());
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lookup");
    std::fs::write(folder.join("model.bin"), bytes)?;
    let words: String = vocabulary().map(|word| format!("{word}\n")).collect();
    std::fs::write(folder.join("vocab.txt"), words)?;
    Ok(())
}
