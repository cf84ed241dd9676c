//! What was measured, as a table or as JSON.

use crate::store::bench::Server;
use serde::Serialize;
use std::fmt::Write;

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// A rate that is compared with the yardstick's.
    #[serde(rename = "/s")]
    PerSecond,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "us")]
    Microseconds,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "bytes")]
    Bytes,
    #[serde(rename = "%")]
    Percent,
    #[serde(rename = "")]
    Count,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::Mebibytes => "MiB",
            Self::Bytes => "bytes",
            Self::Percent => "%",
            Self::Count => "",
        }
    }
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub scenario: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: Unit,
    /// Of the yardstick, measured right before it; null: it is no rate of events, or the yardstick was not measured.
    pub ratio: Option<f64>,
}

/// The figures of one run, in the order they were taken.
#[derive(Debug, Default)]
pub struct Figures {
    scenario: &'static str,
    yardstick: Option<f64>,
    all: Vec<Figure>,
}

impl Figures {
    /// What follows is of this scenario.
    pub fn begin(&mut self, scenario: &'static str) {
        self.scenario = scenario;
    }

    /// A rate of events, compared with the yardstick.
    pub fn rate(&mut self, what: impl Into<String>, value: f64) {
        let ratio = self.yardstick.map(|yardstick| value / yardstick);
        self.push(what, value, Unit::PerSecond, ratio);
    }

    /// Any other figure.
    pub fn add(&mut self, what: impl Into<String>, value: f64, unit: Unit) {
        self.push(what, value, unit, None);
    }

    /// The rate that the others are compared with from now on.
    pub fn set_yardstick(&mut self, per_second: f64) {
        self.yardstick = Some(per_second);
    }

    pub fn has_yardstick(&self) -> bool {
        self.yardstick.is_some()
    }

    pub fn into_figures(self) -> Vec<Figure> {
        self.all
    }

    fn push(&mut self, what: impl Into<String>, value: f64, unit: Unit, ratio: Option<f64>) {
        self.all.push(Figure { scenario: self.scenario, what: what.into(), value, unit, ratio });
    }
}

/// A sink of the config that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub name: String,
    pub kind: &'static str,
    /// Events in each run.
    pub events: u64,
    /// Of these types, in turn.
    pub types: Vec<&'static str>,
}

/// Everything, for `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// A build without optimizations measures nothing.
    pub optimized: bool,
    pub cores: usize,
    pub server: Server,
    pub quick: bool,
    /// With `--sink`: which, and what it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<Measured>,
    /// Runs that each figure is the median of.
    pub runs: usize,
    pub figures: Vec<Figure>,
}

/// The median of each figure over several runs, in the order of the first run that has it. A ratio is the median of the runs' ratios.
pub fn medians(runs: Vec<Vec<Figure>>) -> Vec<Figure> {
    let mut by_name: Vec<Vec<Figure>> = Vec::new();
    for figure in runs.into_iter().flatten() {
        match by_name.iter_mut().find(|same| same[0].scenario == figure.scenario && same[0].what == figure.what) {
            Some(same) => same.push(figure),
            None => by_name.push(vec![figure]),
        }
    }
    let of_runs = |same: Vec<Figure>| {
        let value = median(same.iter().map(|figure| figure.value).collect())?;
        let ratio = median(same.iter().filter_map(|figure| figure.ratio).collect());
        same.into_iter().next().map(|first| Figure { value, ratio, ..first })
    };
    by_name.into_iter().filter_map(of_runs).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[middle - 1], upper) })
}

/// The value below which this part of the sorted values lies; 0: there are none.
pub fn quantile(sorted: &[u64], part: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(0)
}

/// The table.
pub fn table(report: &Report) -> String {
    let server = &report.server;
    let mut text = format!(
        "sluice {}{}, {} cores; PostgreSQL {}, fsync {}, synchronous_commit {}, shared_buffers {}, max_wal_size {}\n",
        report.version,
        if report.optimized { "" } else { " (built without optimizations: compare nothing)" },
        report.cores,
        server.version,
        server.fsync,
        server.synchronous_commit,
        server.shared_buffers,
        server.max_wal_size,
    );
    if let Some(Measured { name, kind, events, types }) = &report.sink {
        text += &format!("the sink {name} (kind {kind}), {events} events: {}\n", types.join(", "));
    }
    if report.runs > 1 {
        text += &format!("medians of {} runs\n", report.runs);
    }
    text += "\n";
    let width = |column: fn(&Figure) -> &str| report.figures.iter().map(|figure| column(figure).chars().count()).max().unwrap_or(0);
    let (scenarios, whats) = (width(|figure| figure.scenario), width(|figure| &figure.what));
    let mut last = "";
    for figure in &report.figures {
        let scenario = if figure.scenario == last { "" } else { figure.scenario };
        last = figure.scenario;
        let ratio = figure.ratio.map_or(String::new(), |ratio| format!("{ratio:.2} x pgbench"));
        let is_whole = figure.unit == Unit::Count && figure.value.fract() == 0.0;
        let value = if is_whole { grouped(figure.value, 0) } else { rounded(figure.value) };
        let line = format!("{scenario:<scenarios$}  {:<whats$}  {value:>12} {:<5}  {ratio}", figure.what, figure.unit.name());
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Three digits that mean something, and groups of three.
fn rounded(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    grouped(value, decimals)
}

fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_keep_three_digits() {
        let texts = [0.0, 0.128, 12.34, 999.6, 1234.0, 1_234_567.8, -1234.0].map(rounded);
        assert_eq!(texts, ["0.00", "0.13", "12.3", "1,000", "1,234", "1,234,568", "-1,234"]);
    }

    #[test]
    fn a_figure_of_several_runs_is_their_median_and_its_ratio_the_median_of_their_ratios() {
        let run = |yardstick: f64, rate: f64| {
            let mut figures = Figures::default();
            figures.begin("ingest");
            figures.set_yardstick(yardstick);
            figures.rate("64 connections", rate);
            figures.into_figures()
        };
        let medians = medians(vec![run(10.0, 40.0), run(20.0, 20.0), run(10.0, 30.0)]);
        assert_eq!(medians.len(), 1);
        assert_eq!((medians[0].value, medians[0].ratio), (30.0, Some(3.0)));
        assert_eq!(median(vec![1.0, 4.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn a_quantile_of_nothing_is_nothing() {
        assert_eq!(quantile(&[], 0.99), 0);
        assert_eq!((quantile(&[1, 2, 3], 0.5), quantile(&[1, 2, 3], 1.0)), (2, 3));
    }
}
