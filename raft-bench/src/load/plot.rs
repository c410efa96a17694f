//! Plots for a page: SVG whose text and lines take the page's colours, light or dark, under a title and a legend.

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::backend::Failure;
use crate::numbers::grouped;

const SIZE: (u32, u32) = (1040, 300);
const TEXT: (&str, i32) = ("sans-serif", 15);

/// Told apart on a light ground and on a dark one.
const COLORS: [RGBColor; 8] = [
    RGBColor(0x2f, 0x7e, 0xd8),
    RGBColor(0xe0, 0x7b, 0x1a),
    RGBColor(0x2a, 0x9d, 0x5c),
    RGBColor(0xd6, 0x45, 0x5d),
    RGBColor(0x8f, 0x6b, 0xd6),
    RGBColor(0x8a, 0x8d, 0x23),
    RGBColor(0x1a, 0xa3, 0xa8),
    RGBColor(0xb0, 0x6a, 0x4a),
];

/// Points that are joined.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

impl Line {
    fn legend(&self, RGBColor(red, green, blue): &RGBColor) -> String {
        let name = escaped(&self.name);
        format!("<span><i style=\"background: rgb({red}, {green}, {blue})\"></i>{name}</span> ")
    }
}

/// How lines are shown.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    /// What grows to the right, and its unit.
    pub(super) across: &'a str,
    /// What grows upwards, and its unit.
    pub(super) up: &'a str,
    /// Whether each step upwards is ten times the last.
    pub(super) logarithmic: bool,
    /// How a value of `across` is written.
    pub(super) tick: fn(f64) -> String,
}

impl Plot<'_> {
    /// The plot as HTML; empty where there is nothing to be shown.
    ///
    /// # Errors
    /// Where it cannot be drawn.
    pub(super) fn draw(&self, lines: &[Line]) -> Result<String, Failure> {
        let all = || lines.iter().flat_map(|line| &line.points);
        if all().next().is_none() {
            return Ok(String::new());
        }
        let right = all().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
        let top = all().map(|point| point.1).fold(1.0, f64::max) * 1.1;
        let bottom = all().map(|point| point.1).fold(top, f64::min).max(1.0) / 1.5;
        let mut svg = String::new();
        if self.logarithmic {
            // Whole decades, so that there are marks to read it by.
            let decade = |value: f64, rounded: fn(f64) -> f64| 10_f64.powf(rounded(value.log10()));
            let (bottom, top) = (decade(bottom, f64::floor), decade(top, f64::ceil));
            self.draw_into(&mut svg, lines, right, (bottom..top).log_scale(), bottom)?;
        } else {
            self.draw_into(&mut svg, lines, right, 0.0..top, 0.0)?;
        }
        // All that is black is text and lines of the plot itself.
        let svg = svg.replace("\"#000000\"", "\"currentColor\"");
        let legend: String =
            lines.iter().zip(COLORS.iter().cycle()).map(|(line, color)| line.legend(color)).collect();
        Ok(format!(
            "<figure><figcaption><b>{}</b> {legend}</figcaption>\n{svg}</figure>\n",
            escaped(self.title)
        ))
    }

    fn draw_into<Y>(
        &self,
        svg: &mut String,
        lines: &[Line],
        right: f64,
        y: Y,
        bottom: f64,
    ) -> Result<(), Failure>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .x_label_area_size(44)
            .y_label_area_size(92)
            .build_cartesian_2d(0.0..right, y)
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .x_desc(self.across)
            .y_desc(self.up)
            .x_labels(12)
            .x_label_formatter(&|value| (self.tick)(*value))
            .y_label_formatter(&|value| mark(*value))
            .label_style(TEXT)
            .axis_desc_style(TEXT)
            .bold_line_style(BLACK.mix(0.15))
            .max_light_lines(0)
            .draw()
            .map_err(drawn)?;
        for (line, color) in lines.iter().zip(COLORS.iter().cycle()) {
            let points = line.points.iter().map(|&(x, y)| (x, y.max(bottom)));
            chart.draw_series(LineSeries::new(points, color.stroke_width(2))).map_err(drawn)?;
        }
        root.present().map_err(drawn)
    }
}

fn drawn(error: impl std::fmt::Display) -> Failure {
    format!("a plot cannot be drawn: {error}").into()
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A mark on an axis: whole, but for small numbers.
pub(super) fn mark(value: f64) -> String {
    if value.abs() < 10.0 { value.to_string() } else { grouped(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_units_and_no_colour_of_its_own_for_text() {
        let plot = Plot {
            title: "latency",
            across: "seconds",
            up: "us",
            logarithmic: true,
            tick: |value| value.to_string(),
        };
        let line =
            |name: &str, points: &[(f64, f64)]| Line { name: name.to_owned(), points: points.to_vec() };
        let svg = plot.draw(&[line("p50", &[(1.0, 10.0), (2.0, 2000.0)]), line("empty", &[])]).unwrap();
        for part in ["latency", "seconds", "us", "p50", "currentColor", "10,000"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("#000000"), "{svg}");
        assert_eq!(plot.draw(&[line("empty", &[])]).unwrap(), "");
    }
}
