//! Percentiles and the spread of rounds.

/// The value below which the share `q` (0 to 1) of the sorted samples lies; 0 when there are none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    match sorted.len() {
        0 => 0.0,
        length => sorted[((length - 1) as f64 * q).round() as usize],
    }
}

/// Nanoseconds as a sorted list of milliseconds.
pub fn sorted_ms(nanoseconds: &[u64]) -> Vec<f64> {
    let mut ms: Vec<f64> = nanoseconds.iter().map(|&ns| ns as f64 / 1e6).collect();
    ms.sort_by(f64::total_cmp);
    ms
}

/// One figure over the rounds of a run.
#[derive(Clone, Debug, Default)]
pub struct Rounds(Vec<f64>);

impl Rounds {
    pub fn median(&self) -> f64 {
        match self.0.len() {
            0 => 0.0,
            length if length % 2 == 1 => self.0[length / 2],
            length => (self.0[length / 2 - 1] + self.0[length / 2]) / 2.0,
        }
    }

    pub fn range(&self) -> (f64, f64) {
        (quantile(&self.0, 0.0), quantile(&self.0, 1.0))
    }

    pub fn quartiles(&self) -> (f64, f64) {
        (quantile(&self.0, 0.25), quantile(&self.0, 0.75))
    }
}

impl FromIterator<f64> for Rounds {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}
