//! The kernel's monotonic clock as time of day.

use jiff::{Timestamp, tz::TimeZone};
use nix::time::{ClockId, clock_gettime};

/// Turns `CLOCK_MONOTONIC`, which records have, into local time.
#[derive(Clone, Debug)]
pub struct Clock {
    offset_ns: i64,
    zone: TimeZone,
}

/// The time now by `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        let part = |number: i64| u64::try_from(number).unwrap_or(0);
        part(now.tv_sec()) * 1_000_000_000 + part(now.tv_nsec())
    })
}

impl Clock {
    /// This machine's clock, as it is set now.
    #[must_use]
    pub fn system() -> Self {
        let offset_ns = Timestamp::now().as_nanosecond() - i128::from(monotonic_ns());
        Self::with_offset_ns(i64::try_from(offset_ns).unwrap_or_default())
    }

    /// The clock of a machine where it was `offset_ns` after the epoch when the monotonic clock was zero.
    #[must_use]
    pub fn with_offset_ns(offset_ns: i64) -> Self {
        Self {
            offset_ns,
            zone: TimeZone::system(),
        }
    }

    /// Nanoseconds from the monotonic clock to the time of day.
    #[must_use]
    pub fn offset_ns(&self) -> i64 {
        self.offset_ns
    }

    /// A time as RFC 3339 writes it, in UTC to the nanosecond; empty beyond the calendar.
    #[must_use]
    pub fn utc(&self, monotonic_ns: u64) -> String {
        let ns = i128::from(self.offset_ns) + i128::from(monotonic_ns);
        Timestamp::from_nanosecond(ns).map_or_else(|_| String::new(), |time| format!("{time:.9}"))
    }

    /// `11:02:03.123456`, in this machine's time zone.
    pub(super) fn local(&self, monotonic_ns: u64) -> String {
        let ns = i128::from(self.offset_ns) + i128::from(monotonic_ns);
        Timestamp::from_nanosecond(ns).map_or_else(
            |_| "??:??:??.??????".to_owned(),
            |time| {
                time.to_zoned(self.zone.clone())
                    .strftime("%H:%M:%S.%6f")
                    .to_string()
            },
        )
    }
}
