//! Parts of a drawing: escaped text, scales with ticks at round figures, paths.

use std::fmt::Write;

/// Width of every drawing, in its own units.
pub(super) const WIDTH: f64 = 760.0;
/// Where the plotting area begins and ends.
pub(super) const LEFT: f64 = 64.0;
pub(super) const RIGHT: f64 = WIDTH - 20.0;

/// Text between tags and in attributes. What a record says is only ever text.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Not allowed in XML at all.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A figure with three significant digits.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "—".to_owned();
    }
    let size = value.abs();
    let digits = match size {
        _ if size >= 100.0 || size == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => (2.0 - size.log10().floor()).min(6.0) as usize,
    };
    format!("{value:.digits$}")
}

/// From figures to places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    log: bool,
}

impl Scale {
    /// Even steps.
    pub(super) fn linear(from: f64, to: f64, start: f64, end: f64) -> Scale {
        let to = if to > from { to } else { from + 1.0 };
        Scale {
            from,
            to,
            start,
            end,
            log: false,
        }
    }

    /// Even steps, or even ratios where the largest figure is many times the smallest.
    pub(super) fn fitting(min: f64, max: f64, start: f64, end: f64) -> Scale {
        let min = min.max(1e-3);
        let max = if max > min { max } else { min * 1.5 };
        if max / min < 12.0 {
            return Scale::linear(0.0, max * 1.04, start, end);
        }
        Scale {
            from: min / 1.1,
            to: max * 1.1,
            start,
            end,
            log: true,
        }
    }

    /// Whether ratios are even.
    pub(super) fn is_log(&self) -> bool {
        self.log
    }

    /// Where a figure stands; what lies outside stands at the edge.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// Round figures, at most a dozen.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        if self.log {
            let decades = (self.to / self.from).log10();
            let steps: &[f64] = match decades {
                _ if decades < 2.5 => &[1.0, 2.0, 5.0],
                _ => &[1.0],
            };
            for power in self.from.log10().floor() as i32..=self.to.log10().ceil() as i32 {
                ticks.extend(steps.iter().map(|step| step * 10f64.powi(power)));
            }
        } else {
            let rough = (self.to - self.from) / 6.0;
            let power = 10f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0]
                .map(|step| step * power)
                .into_iter()
                .find(|step| *step >= rough)
                .unwrap_or(rough);
            let first = (self.from / step).ceil() as i64;
            ticks.extend((first..first + 12).map(|i| i as f64 * step));
        }
        let slack = 1e-9 * self.to.abs();
        ticks.retain(|tick| (self.from - slack..=self.to + slack).contains(tick));
        ticks
    }
}

/// A drawing that grows. Whoever adds text to it escapes it by [`Drawing::text`].
pub(super) struct Drawing {
    body: String,
    height: f64,
}

impl Drawing {
    pub(super) fn new(height: f64) -> Drawing {
        Drawing {
            body: String::new(),
            height,
        }
    }

    /// Elements that are made here, without a word from a record.
    pub(super) fn raw(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" class="{class}"/>"#
        );
    }

    /// A box; what it is shows as a tip.
    pub(super) fn bar(
        &mut self,
        (x, y, width, height): (f64, f64, f64, f64),
        class: &str,
        tip: &str,
    ) {
        let tip = escape(tip);
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.2}" y="{y:.1}" width="{width:.2}" height="{height:.1}" class="{class}" data-tip="{tip}"><title>{tip}</title></rect>"#
        );
    }

    /// A mark whose form depends on the number of its series, besides its colour.
    pub(super) fn mark(&mut self, (x, y): (f64, f64), series: usize, class: &str, tip: &str) {
        let tip = escape(tip);
        let form = mark_path(x, y, series);
        let _ = writeln!(
            self.body,
            r#"<path d="{form}" class="mark {class}" data-tip="{tip}"><title>{tip}</title></path>"#
        );
    }

    /// Lines and figures under (or beside) the plotting area between `top` and `bottom`.
    pub(super) fn x_axis(&mut self, scale: &Scale, (top, bottom): (f64, f64), title: &str) {
        for tick in scale.ticks() {
            let x = scale.at(tick);
            self.line((x, top), (x, bottom), "grid");
            self.text(x, bottom + 16.0, "tick mid", &tick_text(tick));
        }
        self.line((LEFT, bottom), (RIGHT, bottom), "axis");
        self.text((LEFT + RIGHT) / 2.0, bottom + 34.0, "label mid", title);
    }

    pub(super) fn y_ticks(&mut self, ticks: &[(f64, String)]) {
        for (y, text) in ticks {
            self.line((LEFT, *y), (RIGHT, *y), "grid");
            self.text(LEFT - 8.0, y + 4.0, "tick end", text);
        }
    }

    pub(super) fn y_title(&mut self, middle: f64, title: &str) {
        let title = escape(title);
        self.raw(&format!(
            r#"<text transform="translate(14 {middle:.1}) rotate(-90)" class="label mid">{title}</text>"#
        ));
    }

    /// The whole, with a title and a description for those who hear it.
    pub(super) fn finish(self, id: &str, title: &str, description: &str) -> String {
        let (title, description) = (escape(title), escape(description));
        format!(
            r#"<svg id="{id}" class="chart" viewBox="0 0 {WIDTH:.0} {:.0}" role="img" aria-labelledby="{id}-t {id}-d" xmlns="http://www.w3.org/2000/svg">
<title id="{id}-t">{title}</title><desc id="{id}-d">{description}</desc>
{}</svg>"#,
            self.height, self.body
        )
    }
}

/// A tick without needless digits.
pub(super) fn tick_text(tick: f64) -> String {
    let text = format!("{tick:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

/// Circle, square, triangle, diamond, cross.
pub(super) fn mark_path(x: f64, y: f64, series: usize) -> String {
    match series % 5 {
        0 => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", x - 4.0),
        1 => format!("M{:.1} {:.1}h7v7h-7z", x - 3.5, y - 3.5),
        2 => format!("M{x:.1} {:.1}l4.5 8h-9z", y - 5.0),
        3 => format!("M{x:.1} {:.1}l5 5l-5 5l-5 -5z", y - 5.0),
        _ => format!("M{:.1} {:.1}l8 8m0 -8l-8 8", x - 4.0, y - 4.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let ticks = |scale: Scale| scale.ticks();
        assert_eq!(
            ticks(Scale::linear(0.0, 60.0, 0.0, 1.0)),
            [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
        );
        assert_eq!(
            ticks(Scale::fitting(1.0, 100.0, 0.0, 1.0)),
            [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        );
        assert!(!Scale::fitting(10.0, 20.0, 0.0, 1.0).is_log());
        for (min, max) in [(0.0, 0.0), (1e-9, 1e12), (5.0, 5.0), (3.0, 2.0)] {
            let scale = Scale::fitting(min, max, 10.0, 20.0);
            assert!(scale.ticks().len() <= 24, "{min} {max}");
            assert!((10.0..=20.0).contains(&scale.at(min)));
            assert!((10.0..=20.0).contains(&scale.at(max)));
        }
    }

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (1234.5, "1234"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.01234, "0.0123"),
            (0.0, "0"),
            (f64::NAN, "—"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(
            (tick_text(0.5), tick_text(20.0), tick_text(-0.0)),
            ("0.5".into(), "20".into(), "0".into())
        );
    }

    #[test]
    fn text_is_only_text() {
        assert_eq!(
            escape("<b a='\"&\u{1}\">"),
            "&lt;b a=&#39;&quot;&amp;\u{fffd}&quot;&gt;"
        );
    }
}
