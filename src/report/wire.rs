//! The form of times, durations and decimals in JSON: RFC 3339, as in a configuration, a number with two decimals.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::{Millis, UnixMillis, parse_duration, parse_rfc3339};
use crate::units::Hundredths;

impl Serialize for Hundredths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 as f64 / 100.0)
    }
}

impl<'de> Deserialize<'de> for Hundredths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hundredths, D::Error> {
        f64::deserialize(deserializer).map(Hundredths::of)
    }
}

impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnixMillis, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_rfc3339(&text).ok_or_else(|| D::Error::custom("must be an RFC 3339 time"))
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).ok_or_else(|| D::Error::custom("must be a duration"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::to_json;

    #[test]
    fn decimals_have_two_places_and_come_back() {
        for (hundredths, text) in
            [(0, "0.00"), (1, "0.01"), (3333, "33.33"), (10_000, "100.00"), (1 << 52, "45035996273704.96")]
        {
            assert_eq!(to_json(&Hundredths(hundredths)), text);
            assert_eq!(serde_json::from_str::<Hundredths>(text).unwrap(), Hundredths(hundredths));
        }
        assert_eq!(serde_json::from_str::<Hundredths>("7").unwrap(), Hundredths(700));
        assert!((0..1_000_000).all(|n| Hundredths::of(n as f64 / 100.0) == Hundredths(n)));
    }

    #[test]
    fn times_and_durations_come_back_as_they_were_written() {
        let (time, text) = (UnixMillis(1_795_168_800_123), r#""2026-11-20T10:00:00.123Z""#);
        assert_eq!((to_json(&time).as_str(), serde_json::from_str(text).ok()), (text, Some(time)));
        assert_eq!(serde_json::from_str::<Millis>(&to_json(&Millis(1500))).unwrap(), Millis(1500));
        assert!(serde_json::from_str::<UnixMillis>(r#""yesterday""#).is_err());
        assert!(serde_json::from_str::<Millis>(r#""a while""#).is_err());
    }
}
