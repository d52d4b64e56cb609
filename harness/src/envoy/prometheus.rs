//! Reads what a test needs from a Prometheus page.

/// The sum of a metric over all series of a page that have these labels, 0 without any.
///
/// Of a histogram, ask for `<name>_count` or `<name>_sum`.
pub fn sum_metric(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    page.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(name)?;
            let inner = match rest.strip_prefix('{') {
                Some(inner) => inner.strip_suffix('}')?,
                None if rest.is_empty() => "",
                None => return None,
            };
            let has = |pair: &String| inner == pair || split(inner).any(|part| part == pair);
            wanted.iter().all(has).then(|| value.parse::<f64>().ok())?
        })
        .sum()
}

/// Splits `a="x",b="y"` into its pairs; a comma inside a value is followed by no label.
fn split(labels: &str) -> impl Iterator<Item = &str> {
    labels.split_inclusive("\",").map(|pair| pair.strip_suffix(',').unwrap_or(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE bellwether_requests_total counter\n\
        bellwether_requests_total{deployment=\"a\",version=\"v1\",outcome=\"good\"} 7\n\
        bellwether_requests_total{deployment=\"a\",version=\"v2\",outcome=\"good\"} 2\n\
        bellwether_requests_total{deployment=\"a\",version=\"v2\",outcome=\"bad\"} 1\n\
        bellwether_requests_total_more{deployment=\"a\"} 100\n\
        bellwether_plain{} 3\nbellwether_bare 4\n";

    #[test]
    fn a_sum_is_over_the_series_that_have_all_labels() {
        for (labels, sum) in [
            (&[][..], 10.0),
            (&[("version", "v2")][..], 3.0),
            (&[("outcome", "good"), ("version", "v2")][..], 2.0),
            (&[("version", "v")][..], 0.0),
        ] {
            assert_eq!(sum_metric(PAGE, "bellwether_requests_total", labels), sum, "{labels:?}");
        }
    }

    #[test]
    fn a_metric_without_labels_has_a_sum_too() {
        assert_eq!(sum_metric(PAGE, "bellwether_plain", &[]), 3.0);
        assert_eq!(sum_metric(PAGE, "bellwether_bare", &[]), 4.0);
        assert_eq!(sum_metric(PAGE, "bellwether_absent", &[]), 0.0);
    }
}
