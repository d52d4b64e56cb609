//! What the numbers say: counts and histograms, limits, and the comparison with stable.

pub mod comparison;
pub mod cusum;
pub mod histogram;
pub mod limits;
pub mod scores;
pub mod sketch;
pub mod stats;
pub mod window;
