//! The limits of a trace: how many packets a second, how much processor time. Past them packets are left out whole, in the
//! kernel, before anything of them is copied.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

use clap::Args;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use tracer_common::Counter;

use crate::kernel::attach::{AttachError, Attached};

/// Arguments that set limits.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct GuardArgs {
    /// Follow at most so many packets a second; of more, some are followed whole and the others
    /// left out whole and counted
    #[arg(long, value_name = "N[/s]", value_parser = rate)]
    max_rate: Option<NonZeroU64>,
    /// Take at most so much of one processor, in percent: past it fewer packets are followed
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_cpu: Option<f64>,
}

/// `1000` or `1000/s`.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number
        .parse()
        .map_err(|_| "not a rate such as 1000 or 1000/s".to_owned())
}

/// `5` or `5%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let said = || "not a share of a processor such as 5 or 5%".to_owned();
    let percent: f64 = number.parse().map_err(|_| said())?;
    (percent.is_finite() && percent > 0.0)
        .then_some(percent)
        .ok_or_else(said)
}

/// Between two looks at the processor time.
pub(super) const EVERY: Duration = Duration::from_millis(200);

/// Lowers and raises the number of packets so that the limits hold.
pub(super) struct Guard {
    args: GuardArgs,
    /// What the programs keep to now.
    limit: Option<NonZeroU64>,
    last: Last,
}

/// What was seen at the last look.
struct Last {
    at: Instant,
    processor: Duration,
    delivered: u64,
}

impl GuardArgs {
    /// Whether there is any limit.
    pub(super) fn any(&self) -> bool {
        self.max_rate.is_some() || self.max_cpu.is_some()
    }
}

impl Guard {
    /// Sets the first limit.
    pub(super) fn new(args: GuardArgs, attached: &mut Attached) -> Result<Self, AttachError> {
        if args.any() {
            attached.limit(args.max_rate)?;
        }
        Ok(Self {
            args,
            limit: args.max_rate,
            last: Last {
                at: Instant::now(),
                processor: processor(),
                delivered: 0,
            },
        })
    }

    /// When to look next, if there is anything to look at.
    pub(super) fn due(&self) -> Option<Instant> {
        self.args.max_cpu.map(|_| self.last.at + EVERY)
    }

    /// Looks at the processor time, and changes the limit where that is called for.
    pub(super) fn look(&mut self, attached: &mut Attached) -> Result<(), AttachError> {
        let Some(max_cpu) = self.args.max_cpu else {
            return Ok(());
        };
        let now = Last {
            at: Instant::now(),
            processor: processor(),
            delivered: attached.counts()?.get(Counter::Delivered),
        };
        let took_s = (now.at - self.last.at).as_secs_f64();
        if took_s <= 0.0 {
            return Ok(());
        }
        let used = now.processor.saturating_sub(self.last.processor).as_secs_f64() / took_s * 100.0;
        #[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
        let delivered_per_s = (now.delivered - self.last.delivered) as f64 / took_s;
        self.last = now;
        let next = next_limit(self.limit, self.args.max_rate, used / max_cpu, delivered_per_s);
        if next != self.limit {
            attached.limit(next)?;
            self.limit = next;
        }
        Ok(())
    }
}

/// The limit to keep to next, where `load` of what is allowed is used: above 1 is too much.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are rough, positive and far below 2^52"
)]
fn next_limit(
    limit: Option<NonZeroU64>,
    max: Option<NonZeroU64>,
    load: f64,
    delivered_per_s: f64,
) -> Option<NonZeroU64> {
    /// Records come in bursts, so a limit is given up in steps only.
    const RAISE: f64 = 1.25;
    /// Below this share of what is allowed the limit is raised.
    const LOW: f64 = 0.8;

    let whole = |rate: f64| NonZeroU64::new((rate as u64).max(1));
    if load > 1.0 {
        // A packet has several records, so the number of records is a limit that is certainly too high for the first.
        let from = limit.map_or(delivered_per_s, |limit| limit.get() as f64);
        return whole(from / load.min(4.0));
    }
    match limit {
        Some(limit) if load < LOW => {
            let raised = limit.get() as f64 * RAISE + 1.0;
            // Nothing is left out at this rate any more: there is no limit but the user's.
            if raised > delivered_per_s * 4.0 + 100.0 {
                return max;
            }
            match max {
                Some(max) if raised >= max.get() as f64 => Some(max),
                _ => whole(raised),
            }
        }
        limit => limit,
    }
}

/// Processor time of this process so far.
fn processor() -> Duration {
    let micros = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    });
    Duration::from_micros(micros.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(rate: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(rate)
    }

    #[test]
    fn rates_and_shares_have_units() {
        assert_eq!(rate("1000"), rate("1000/s"));
        assert!(rate("0").is_err() && rate("x/s").is_err() && rate("-1").is_err());
        assert_eq!(percent("5%"), Ok(5.0));
        assert!(percent("0").is_err() && percent("NaN").is_err() && percent("").is_err());
    }

    #[test]
    fn too_much_lowers_the_limit() {
        assert_eq!(next_limit(None, None, 2.0, 1000.0), some(500));
        assert_eq!(next_limit(some(500), some(600), 2.0, 1000.0), some(250));
        assert_eq!(next_limit(some(1), None, 100.0, 1.0), some(1));
    }

    #[test]
    fn room_raises_it_up_to_what_the_user_allows() {
        assert_eq!(next_limit(some(1000), None, 0.5, 4000.0), some(1251));
        assert_eq!(next_limit(some(1000), some(1100), 0.5, 4000.0), some(1100));
        // Hardly anything comes.
        assert_eq!(next_limit(some(1000), None, 0.1, 10.0), None);
        // Neither too much nor too little.
        assert_eq!(next_limit(some(1000), None, 0.9, 4000.0), some(1000));
    }
}
