//! The heat maps as an SVG picture: a row of maps for each layer, a column for each head.

use svg::Document;
use svg::node::element::{Group, Rectangle, Text};

use crate::model::Weights;
use crate::vocabulary::word;

const CELL: usize = 44;
/// Room for the words on the left.
const LABELS: usize = 92;
/// Room for the title and the slanted words under it.
const TOP: usize = 108;
/// Room on the right, into which the last slanted word leans.
const RIGHT: usize = 40;
const MARGIN: usize = 16;

/// One map and where it stands in the picture.
pub struct Panel {
    pub title: String,
    pub row: usize,
    pub column: usize,
    pub weights: Weights,
}

/// A picture of the maps; `marked` is the position of a token whose row is outlined.
pub fn draw(words: &[usize], panels: &[Panel], marked: Option<usize>) -> Document {
    let side = words.len() * CELL;
    let (panel_width, panel_height) = (LABELS + side + RIGHT, TOP + side + MARGIN);
    let count = |place: fn(&Panel) -> usize| panels.iter().map(place).max().map_or(0, |last| last + 1);
    let width = MARGIN + count(|panel| panel.column) * panel_width;
    let height = MARGIN + count(|panel| panel.row) * panel_height;

    let background = Rectangle::new().set("width", width).set("height", height).set("fill", "white");
    let document = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("width", width)
        .set("height", height)
        .set("font-family", "sans-serif")
        .set("font-size", 14)
        .add(background);
    panels.iter().fold(document, |document, panel| {
        let (x, y) = (MARGIN + panel.column * panel_width, MARGIN + panel.row * panel_height);
        document.add(map(words, panel, marked).set("transform", format!("translate({x} {y})")))
    })
}

fn map(words: &[usize], panel: &Panel, marked: Option<usize>) -> Group {
    let title = Text::new(panel.title.as_str()).set("y", 18).set("font-size", 18).set("font-weight", "bold");
    let mut group = Group::new().add(title);
    for (i, (&number, row)) in words.iter().zip(&panel.weights).enumerate() {
        let middle = i * CELL + CELL / 2;
        let looking =
            Text::new(word(number)).set("x", LABELS - 8).set("y", TOP + middle + 5).set("text-anchor", "end");
        let (x, y) = (LABELS + middle, TOP - 8);
        let looked_at = Text::new(word(number)).set("transform", format!("translate({x} {y}) rotate(-45)"));
        group = group.add(looking).add(looked_at);
        for (t, &weight) in row[..words.len()].iter().enumerate() {
            group = cell(group, LABELS + t * CELL, TOP + i * CELL, weight);
        }
    }
    match marked {
        Some(i) => group.add(outline(LABELS, TOP + i * CELL, words.len() * CELL)),
        None => group,
    }
}

fn cell(group: Group, x: usize, y: usize, weight: f32) -> Group {
    let square = Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", CELL)
        .set("height", CELL)
        .set("fill", colour(weight))
        .set("stroke", "white");
    let percent = Text::new(format!("{:.0}", 100.0 * weight))
        .set("x", x + CELL / 2)
        .set("y", y + CELL / 2 + 5)
        .set("text-anchor", "middle")
        .set("fill", if weight < 0.5 { "#33415c" } else { "white" });
    group.add(square).add(percent)
}

fn outline(x: usize, y: usize, width: usize) -> Rectangle {
    Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", width)
        .set("height", CELL)
        .set("fill", "none")
        .set("stroke", "#d9480f")
        .set("stroke-width", 3)
}

/// From a pale to a dark blue, linear in each channel.
fn colour(weight: f32) -> String {
    let [r, g, b] = [(242.0, 11.0), (246.0, 61.0), (252.0, 145.0)]
        .map(|(pale, dark): (f32, f32)| (pale + (dark - pale) * weight).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}
