//! Medians, ratios, and how they are printed.

use std::fmt;

/// One measurement of all peers.
pub struct Row {
    name: String,
    unit: &'static str,
    medians: Vec<f64>,
    ranges: Vec<(f64, f64)>,
}

impl Row {
    pub fn of(name: &str, unit: &'static str, values: Vec<Vec<f64>>) -> Self {
        let sorted: Vec<Vec<f64>> = values
            .into_iter()
            .map(|mut v| {
                v.sort_by(f64::total_cmp);
                v
            })
            .collect();
        let at = |v: &Vec<f64>, part: f64| {
            v.get(((v.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or(f64::NAN)
        };
        Self {
            name: name.into(),
            unit,
            medians: sorted.iter().map(|v| at(v, 0.5)).collect(),
            ranges: sorted.iter().map(|v| (at(v, 0.0), at(v, 1.0))).collect(),
        }
    }
}

/// All rows.
pub struct Table {
    titles: Vec<String>,
    rows: Vec<Row>,
}

impl Table {
    pub fn new(titles: Vec<String>) -> Self {
        Self { titles, rows: Vec::new() }
    }

    pub fn push(&mut self, row: Row) {
        eprintln!("measured: {}", row.name);
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:34}", "median (min–max)")?;
        for title in &self.titles {
            write!(f, " {title:>30}")?;
        }
        writeln!(f, " {:>7}", "ratio")?;
        for row in &self.rows {
            write!(f, "{:34}", row.name)?;
            for (median, (min, max)) in row.medians.iter().zip(&row.ranges) {
                write!(f, " {:>30}", format!("{median:.2} {} ({min:.2}–{max:.2})", row.unit))?;
            }
            match row.medians.as_slice() {
                [ours, theirs] => writeln!(f, " {:>7.2}", ours / theirs)?,
                _ => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_medians_and_a_ratio() {
        let mut table = Table::new(vec!["a".into(), "b".into()]);
        table.push(Row::of("x", "ms", vec![vec![3.0, 1.0, 2.0], vec![4.0]]));
        let text = table.to_string();
        assert!(text.contains("2.00 ms (1.00–3.00)") && text.contains("0.50"), "{text}");
    }
}
