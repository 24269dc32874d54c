//! The words of the demonstration: each list is one slot of the grammar in `sentences.rs`.

/// Nouns that can be excited, hungry or tired.
pub const ANIMALS: [&str; 12] =
    ["dog", "cat", "puppy", "kitten", "horse", "fox", "rabbit", "monkey", "parrot", "bear", "goat", "otter"];

/// Nouns that can be deflated, broken or torn.
pub const OBJECTS: [&str; 12] =
    ["ball", "toy", "box", "shoe", "rope", "basket", "pillow", "kite", "bucket", "balloon", "bottle", "drum"];

/// What an animal does to an object.
pub const ANIMAL_VERBS: [&str; 12] = [
    "chased", "found", "carried", "dropped", "sniffed", "pushed", "grabbed", "ignored", "kicked", "wanted",
    "watched", "hid",
];

/// What an object does to an animal. With these the object comes first, so that the position of a
/// noun does not tell its kind.
pub const OBJECT_VERBS: [&str; 6] = ["hit", "scared", "surprised", "annoyed", "woke", "fooled"];

/// What only an animal can be.
pub const ANIMAL_ADJECTIVES: [&str; 14] = [
    "excited", "hungry", "tired", "happy", "angry", "bored", "playful", "curious", "thirsty", "sleepy",
    "nervous", "clever", "lonely", "jealous",
];

/// What only an object can be.
pub const OBJECT_ADJECTIVES: [&str; 14] = [
    "deflated",
    "broken",
    "heavy",
    "torn",
    "wooden",
    "rusty",
    "hollow",
    "cracked",
    "plastic",
    "shiny",
    "expensive",
    "handmade",
    "fragile",
    "loose",
];

/// May open a sentence; moves every later word by one.
pub const OPENINGS: [&str; 2] = ["yesterday", "today"];

/// May stand before the adjective.
pub const DEGREES: [&str; 2] = ["very", "so"];
