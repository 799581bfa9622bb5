//! Plain text tables: a header and rows, columns as wide as their widest cell.

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// The table as lines; two spaces between columns, none at the end of a line.
pub(crate) fn render(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |index: usize, header: &str| {
        let cells = rows.iter().map(|row| row[index].chars().count());
        cells.chain([header.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, (header, _))| width(index, header))
        .collect();
    let header: Vec<String> = columns.iter().map(|(header, _)| (*header).into()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for ((cell, (_, align)), width) in row.iter().zip(columns).zip(&widths) {
            let fill = " ".repeat(width - cell.chars().count());
            match align {
                Align::Left => line.extend([cell, fill.as_str(), "  "]),
                Align::Right => line.extend([fill.as_str(), cell, "  "]),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Milliseconds for people.
pub(crate) fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 1_000.0 => format!("{ms:.1} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms => {
            let seconds = (ms / 1_000.0).round() as u64;
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            match hours {
                0 => format!("{minutes}:{seconds:02} min"),
                _ => format!("{hours}:{minutes:02}:{seconds:02} h"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = render(
            &[
                ("NAME", Align::Left),
                ("N", Align::Right),
                ("NOTE", Align::Left),
            ],
            &[
                vec!["a".into(), "100".into(), String::new()],
                vec!["käfer".into(), "1".into(), "x".into()],
            ],
        );
        assert_eq!(text, "NAME     N  NOTE\na      100\nkäfer    1  x\n");
    }

    #[test]
    fn durations_keep_three_or_four_digits() {
        let check = |ms, expect| assert_eq!(duration(ms), expect);
        check(0.0, "0.0 ms");
        check(12.34, "12.3 ms");
        check(1_500.0, "1.5 s");
        check(61_000.0, "1:01 min");
        check(3_661_000.0, "1:01:01 h");
    }
}
