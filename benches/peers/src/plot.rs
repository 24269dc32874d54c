//! Bars in groups, as SVG.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::rounds::Failure;

/// A group of bars for each shape, a bar for each name.
pub struct Bars {
    pub title: String,
    pub unit: String,
    pub names: Vec<String>,
    pub groups: Vec<(String, Vec<Option<f64>>)>,
}

/// Pixels.
const BAR: usize = 9;
const HEIGHT: u32 = 480;
const FONT: (&str, u32) = ("sans-serif", 13);
/// Room for the names of shapes, which are written upwards.
const BELOW: u32 = 150;
const LEGEND: u32 = 150;

impl Bars {
    pub fn draw(&self, path: &Path) -> Result<(), Failure> {
        let bars = self.groups.len() * (self.names.len() + 1);
        let width = (bars * BAR) as u32 + 80 + LEGEND;
        let area = SVGBackend::new(path, (width.max(500), HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        let (chart, legend) = area.split_horizontally(width.max(500) - LEGEND);
        self.chart(&chart)?;
        self.legend(&legend)?;
        Ok(area.present()?)
    }

    fn chart(&self, area: &DrawingArea<SVGBackend, Shift>) -> Result<(), Failure> {
        let heights = || self.groups.iter().flat_map(|(_, heights)| heights).flatten();
        let top = heights().copied().fold(0.0, f64::max).max(1e-9) * 1.05;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(BELOW)
            .y_label_area_size(50)
            .build_cartesian_2d(0.0..self.groups.len() as f64, 0.0..top)?;
        let mesh = &mut chart.configure_mesh();
        mesh.disable_x_mesh()
            .x_labels(0)
            .y_desc(&self.unit)
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;

        let step = 1.0 / (self.names.len() + 1) as f64;
        for (i, (_, heights)) in self.groups.iter().enumerate() {
            let bars = heights.iter().enumerate().filter_map(|(j, height)| Some((j, (*height)?)));
            chart.draw_series(bars.map(|(j, height)| {
                let left = i as f64 + step * (j as f64 + 0.5);
                Rectangle::new([(left, 0.0), (left + step, height)], self.color(j).filled())
            }))?;
        }

        let style = FONT.into_font().transform(FontTransform::Rotate270).color(&BLACK);
        let style = style.pos(Pos::new(HPos::Right, VPos::Center));
        for (i, (shape, _)) in self.groups.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(i as f64 + 0.5, 0.0));
            let (left, above) = area.get_base_pixel();
            area.draw(&Text::new(shape.clone(), (x - left, y - above + 6), style.clone()))?;
        }
        Ok(())
    }

    fn legend(&self, area: &DrawingArea<SVGBackend, Shift>) -> Result<(), Failure> {
        for (j, name) in self.names.iter().enumerate() {
            let y = 40 + 20 * j as i32;
            area.draw(&Rectangle::new([(5, y), (17, y + 12)], self.color(j).filled()))?;
            area.draw(&Text::new(name.clone(), (23, y), FONT.into_font().color(&BLACK)))?;
        }
        Ok(())
    }

    /// Ours in black, the others around the circle of hues, neighbours of different lightness.
    fn color(&self, j: usize) -> RGBAColor {
        if self.names[j].starts_with("qkv") && self.names.iter().any(|name| !name.starts_with("qkv")) {
            return if j == 0 { BLACK.mix(1.0) } else { BLACK.mix(0.5) };
        }
        let hue = j as f64 / self.names.len() as f64;
        HSLColor(hue, 0.7, [0.4, 0.65][j % 2]).to_rgba()
    }
}
