//! The `lookup` example does what it says: "it" looks at the right noun, K routes and V carries.

#[path = "../examples/lookup/file.rs"]
mod file;
#[path = "../examples/lookup/held_out.rs"]
mod held_out;
#[path = "../examples/lookup/model.rs"]
mod model;
#[path = "../examples/lookup/read.rs"]
mod read;
#[path = "../examples/lookup/rng.rs"]
mod rng;
#[path = "../examples/lookup/roles.rs"]
mod roles;
#[path = "../examples/lookup/sentences.rs"]
mod sentences;
#[path = "../examples/lookup/vocabulary.rs"]
mod vocabulary;
#[path = "../examples/lookup/weights.rs"]
mod weights;
#[path = "../examples/lookup/words.rs"]
mod words;

use file::{MAX_LEN, N_HEADS, N_LAYERS, VOCAB};
use held_out::score;
use model::{INNER, Lookup, forward, forward_with};
use read::{BadSentence, read};
use rng::Rng;
use roles::Roles;
use sentences::{Sentence, Shape, is_held_out, sentence};
use vocabulary::{number, word};

/// Positions in "the dog chased the ball because it was ...".
const DOG: usize = 1;
const BALL: usize = 4;
const IT: usize = 6;

#[test]
fn held_out_sentences_are_routed_to_the_right_noun() {
    let score = score(1, 2000).unwrap();
    assert!(score.looked_up >= 1900, "{score:?}");
    assert!(score.named >= 1900, "{score:?}");
}

#[test]
fn adjective_decides_what_it_looks_at() {
    for (adjective, right, wrong) in [("excited", DOG, BALL), ("deflated", BALL, DOG)] {
        let words = read(&format!("The dog chased the ball because it was {adjective}.")).unwrap();
        let trace = forward(&words).unwrap();
        let weights = trace.lookups[N_LAYERS - 1].mean_weights(0..N_HEADS).unwrap()[IT];
        assert!(weights[right] > 0.5, "{adjective}: {weights:?}");
        assert!(weights[right] > 4.0 * weights[wrong], "{adjective}: {weights:?}");
        assert_eq!(trace.answer(IT).unwrap(), words[right], "{adjective}");
        assert!(is_held_out("dog", "ball", adjective));

        let roles = Roles::of(&words, IT, [DOG, BALL]).unwrap();
        assert_eq!(roles.keys_swapped.answer, words[wrong], "{adjective}");
        assert_eq!(roles.values_swapped.answer, words[wrong], "{adjective}");
    }
}

/// The nouns read the adjective in the first layer, and the one that it fits advertises itself in the
/// last: with the keys of the other sentence "it" looks at the other noun, with its query it does not.
#[test]
fn keys_carry_the_adjective() {
    let excited = read("the dog chased the ball because it was excited").unwrap();
    let deflated = read("the dog chased the ball because it was deflated").unwrap();
    let other = forward(&deflated).unwrap().lookups[N_LAYERS - 1];
    let with = |exchange: fn(&mut Lookup, &Lookup)| {
        let edit = |layer: usize, lookup: &mut Lookup| {
            if layer == N_LAYERS - 1 {
                exchange(lookup, &other);
            }
        };
        let trace = forward_with(&excited, edit).unwrap();
        trace.lookups[N_LAYERS - 1].mean_weights(0..N_HEADS).unwrap()[IT]
    };
    let weights = with(|lookup, other| lookup.q = other.q);
    assert!(weights[DOG] > 0.5, "{weights:?}");
    let weights = with(|lookup, other| lookup.k = other.k);
    assert!(weights[BALL] > 0.5, "{weights:?}");
}

/// The scores are the same numbers in another order, so the exponentials are too; only their sum is
/// rounded differently, by less than this for numbers up to 1.
const REORDERED: f32 = 1e-6;

#[test]
fn swapped_keys_swap_the_weights() {
    for (sentence, roles) in experiments() {
        let (before, after) = (roles.as_trained.weights, roles.keys_swapped.weights);
        let (right, wrong) = (sentence.right, sentence.wrong);
        for (t, before) in before.into_iter().enumerate() {
            let moved = if t == right {
                wrong
            } else if t == wrong {
                right
            } else {
                t
            };
            assert!((before - after[moved]).abs() < REORDERED, "{sentence:?}: token {t}");
        }
        assert!(after[wrong] > after[right], "{sentence:?}");
    }
}

#[test]
fn swapped_values_keep_every_bit_of_the_weights_and_change_the_blend() {
    for (sentence, roles) in experiments() {
        let bits = |weights: [f32; MAX_LEN]| weights.map(f32::to_bits);
        assert_eq!(bits(roles.as_trained.weights), bits(roles.values_swapped.weights), "{sentence:?}");
        let (before, after) = (roles.as_trained.blend, roles.values_swapped.blend);
        assert!(distance(&before, &after) > 0.1 * distance(&before, &[0.0; INNER]), "{sentence:?}");
    }
}

/// Either way "it" carries the other noun away.
#[test]
fn swapped_keys_or_values_swap_the_answer() {
    let experiments = experiments();
    let count = |is: fn(&Roles) -> usize, answer: fn(&Sentence) -> usize| {
        experiments.iter().filter(|(s, roles)| is(roles) == number(s.words[answer(s)]).unwrap()).count()
    };
    assert!(count(|roles| roles.as_trained.answer, |s| s.right) >= EXPERIMENTS * 95 / 100);
    assert!(count(|roles| roles.keys_swapped.answer, |s| s.wrong) >= EXPERIMENTS * 95 / 100);
    assert!(count(|roles| roles.values_swapped.answer, |s| s.wrong) >= EXPERIMENTS * 95 / 100);
}

const EXPERIMENTS: usize = 200;

fn experiments() -> Vec<(Sentence, Roles)> {
    let mut rng = Rng::new(2);
    let run = |_| {
        let shape = Shape::random(&mut rng);
        let sentence = sentence(&mut rng, shape, true);
        let words: Vec<usize> = sentence.words.iter().map(|word| number(word).unwrap()).collect();
        let roles = Roles::of(&words, sentence.it, [sentence.right, sentence.wrong]).unwrap();
        (sentence, roles)
    };
    (0..EXPERIMENTS).map(run).collect()
}

fn distance(a: &[f32; INNER], b: &[f32; INNER]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
}

#[test]
fn shown_weights_times_v_are_the_fused_output() {
    let words = read("the dog chased the ball because it was excited").unwrap();
    for lookup in forward(&words).unwrap().lookups {
        let largest = lookup.out.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        assert!(lookup.weights_error().unwrap() <= 1e-6 * largest);
    }
}

#[test]
fn shown_weights_are_rows_that_sum_to_one() {
    let words = read("today the drum woke the bear because it was so loose").unwrap();
    assert_eq!(words.len(), MAX_LEN);
    for lookup in forward(&words).unwrap().lookups {
        for head in 0..N_HEADS {
            for row in lookup.weights(head).unwrap() {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
            }
        }
    }
}

#[test]
fn words_are_read_in_any_case_and_with_punctuation() {
    let plain = read("the dog chased the ball because it was excited");
    assert_eq!(read("  The dog chased the BALL, because \"it\" was excited!"), plain);
}

#[test]
fn unknown_word_names_the_nearest_known_ones() {
    let error = read("the dgo chased the ball").unwrap_err();
    let BadSentence::UnknownWord { word, nearest } = &error else { panic!("{error:?}") };
    assert_eq!((word.as_str(), nearest[0]), ("dgo", "dog"));
    assert!(error.to_string().contains("dog"), "{error}");
}

#[test]
fn empty_and_too_long_sentences_are_refused() {
    assert_eq!(read(" ... "), Err(BadSentence::Empty));
    assert_eq!(read(&"the ".repeat(MAX_LEN + 1)), Err(BadSentence::TooLong { len: MAX_LEN + 1 }));
    assert!(forward(&[0; MAX_LEN + 1]).is_err());
    assert!(forward(&[VOCAB]).is_err());
}

#[test]
fn vocabulary_is_every_word_of_the_grammar_once() {
    use words::{ANIMAL_ADJECTIVES, ANIMAL_VERBS, ANIMALS, DEGREES};
    use words::{OBJECT_ADJECTIVES, OBJECT_VERBS, OBJECTS, OPENINGS};
    let slots: [&[&str]; 8] = [
        &OPENINGS,
        &DEGREES,
        &ANIMALS,
        &OBJECTS,
        &ANIMAL_VERBS,
        &OBJECT_VERBS,
        &ANIMAL_ADJECTIVES,
        &OBJECT_ADJECTIVES,
    ];
    let mut grammar = slots.concat();
    grammar.extend(["the", "because", "it", "was"]);
    grammar.sort_unstable();
    let mut known: Vec<_> = (0..VOCAB).map(word).collect();
    known.sort_unstable();
    assert_eq!(known, grammar);
}
