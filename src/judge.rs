//! The judgement of a canary: counts and histograms, limits with their verdict, and the comparison with stable.

pub mod comparison;
pub mod cusum;
pub mod histogram;
pub mod limits;
pub mod proportion;
pub mod scores;
pub mod sketch;
pub mod stats;
pub mod verdict;
pub mod window;
