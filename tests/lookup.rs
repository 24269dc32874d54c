//! The `lookup` example does what it says: "it" looks at the right noun, K routes and V carries.

#[path = "../examples/lookup/held_out.rs"]
mod held_out;
#[path = "../examples/lookup/model.rs"]
mod model;
#[path = "../examples/lookup/rng.rs"]
mod rng;
#[path = "../examples/lookup/roles.rs"]
mod roles;
#[path = "../examples/lookup/sentences.rs"]
mod sentences;
#[path = "../examples/lookup/vocabulary.rs"]
mod vocabulary;
#[path = "../examples/lookup/words.rs"]
mod words;

use held_out::score;
use model::{MAX_LEN, N_HEADS, N_LAYERS, VOCAB, forward};
use rng::Rng;
use roles::Roles;
use sentences::{Sentence, Shape, is_held_out, sentence};
use vocabulary::{BadSentence, number, read, word};

/// Positions in "the dog chased the ball because it was ...".
const DOG: usize = 1;
const BALL: usize = 4;
const IT: usize = 6;

fn numbers(sentence: &Sentence) -> Vec<usize> {
    sentence.words.iter().map(|word| number(word).unwrap()).collect()
}

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
    }
}

/// The softmax sums the same exponentials in another order, and the fast exponential is the same for the
/// same score: the difference is a few roundings of numbers up to 1.
const REORDERED: f32 = 1e-6;

#[test]
fn swapped_keys_swap_the_weights_and_the_answer() {
    for_held_out(|words, sentence| {
        let (right, wrong) = (sentence.right, sentence.wrong);
        let roles = Roles::of(words, sentence.it, [right, wrong]).unwrap();
        let (before, after) = (roles.as_trained.weights, roles.keys_swapped.weights);
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
        assert_eq!(roles.keys_swapped.answer, words[wrong], "{sentence:?}");
    });
}

#[test]
fn swapped_values_keep_the_weights_and_change_the_answer() {
    for_held_out(|words, sentence| {
        let (right, wrong) = (sentence.right, sentence.wrong);
        let roles = Roles::of(words, sentence.it, [right, wrong]).unwrap();
        let bits = |weights: [f32; MAX_LEN]| weights.map(f32::to_bits);
        assert_eq!(bits(roles.as_trained.weights), bits(roles.values_swapped.weights), "{sentence:?}");
        assert_eq!(roles.as_trained.answer, words[right], "{sentence:?}");
        assert_eq!(roles.values_swapped.answer, words[wrong], "{sentence:?}");
    });
}

fn for_held_out(check: impl Fn(&[usize], &Sentence)) {
    let mut rng = Rng::new(2);
    for _ in 0..200 {
        let shape = Shape::random(&mut rng);
        let sentence = sentence(&mut rng, shape, true);
        check(&numbers(&sentence), &sentence);
    }
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
    grammar.sort();
    let mut known: Vec<_> = (0..VOCAB).map(word).collect();
    known.sort();
    assert_eq!(known, grammar);
}
