//! What a worker says of itself on `/metrics`.

/// A page in Prometheus' text format, of a worker with one sink.
#[derive(Debug)]
pub struct Scrape(String);

impl Scrape {
    pub fn new(page: String) -> Self {
        Self(page)
    }

    /// The sum of a counter over all its series, or over those with this in their labels, such as `status="dead"`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        self.series(name).filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }

    /// How many values a histogram has seen.
    pub fn count(&self, name: &str) -> f64 {
        self.sum(&format!("{name}_count"), "")
    }

    /// A quantile of a histogram, as Prometheus' `histogram_quantile` tells it: evenly spread within a bucket. `None`: it saw nothing.
    pub fn quantile(&self, name: &str, part: f64) -> Option<f64> {
        let mut buckets: Vec<(f64, f64)> =
            self.series(&format!("{name}_bucket")).filter_map(|(labels, n)| Some((le(labels)?, n))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted = buckets.last().map(|(_, all)| all * part).filter(|wanted| *wanted > 0.0)?;
        let at = buckets.iter().position(|(_, n)| *n >= wanted)?;
        let (below, n_below) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
        let (bound, n) = buckets[at];
        // The last bucket has no end: its beginning is all that is known.
        Some(if bound.is_finite() { below + (bound - below) * (wanted - n_below) / (n - n_below) } else { below })
    }

    /// Labels and value of each series of a metric.
    fn series<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
            Some((labels, value.parse().ok()?))
        })
    }
}

/// The bucket's upper bound.
fn le(labels: &str) -> Option<f64> {
    let (_, rest) = labels.split_once("le=\"")?;
    rest.split_once('"')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE tries counter\ntries{sink=\"a\",outcome=\"delivered\"} 7\ntries{sink=\"a\",outcome=\"dead\"} 2\n\
        tries_seconds_bucket{sink=\"a\",le=\"0.1\"} 50\ntries_seconds_bucket{sink=\"a\",le=\"0.2\"} 90\n\
        tries_seconds_bucket{sink=\"a\",le=\"+Inf\"} 100\ntries_seconds_count{sink=\"a\"} 100\n";

    #[test]
    fn a_counter_is_summed_over_the_series_asked_for_and_a_quantile_is_found_within_its_bucket() {
        let scrape = Scrape::new(PAGE.into());
        assert_eq!((scrape.sum("tries", ""), scrape.sum("tries", "outcome=\"dead\""), scrape.sum("try", "")), (9.0, 2.0, 0.0));
        assert_eq!(scrape.count("tries_seconds"), 100.0);
        let quantile = |part| scrape.quantile("tries_seconds", part).unwrap();
        assert!((quantile(0.7) - 0.15).abs() < 1e-9 && (quantile(0.25) - 0.05).abs() < 1e-9);
        assert_eq!(quantile(0.99), 0.2, "beyond the last bound, that bound");
        assert_eq!(scrape.quantile("other_seconds", 0.5), None);
    }
}
