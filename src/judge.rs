//! The judgement of a canary: counts and histograms, limits with their verdict, and the comparison with stable.

pub mod comparison; // the comparison as workers share it: one record a canary
pub mod cusum; // the score of one alternative: a sequential test
pub mod histogram; // a histogram of latencies that can be merged
pub mod limits; // whether one version breaks a limit, and how near it is
pub mod proportion; // a proportion with its confidence interval
pub mod scores; // the comparison of a canary with stable: steps and scores
pub mod sketch; // the clients that failed most, in bounded memory
pub mod stats; // the record of one version: totals, streaks, window
pub mod verdict; // the verdict on limits: the canary's fault, or trouble that stable shares
pub mod window; // the sliding window of recent outcomes
